"""`pi0q mcp`, spoken to as an assistant does."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from pi0q.queue.store import Store
from tests.conftest import PATIENCE, JobDriver
from tests.event_loop import run_apart
from tests.queue.test_client import JOB


def test_assistant_reads_and_submits(env: dict[str, str], store: Store, driver: JobDriver) -> None:
    runs = driver.submit("runs")
    driver.report(runs, driver.run(runs), log="step 1\n", step=1, loss=float("nan"))
    store.announce_box("box-a", "id-a", {"status": "ready", "gpus": "[]"})

    async def talk() -> None:
        command = StdioServerParameters(command=sys.executable, args=["-m", "pi0q.queue.cli", "mcp"], env=env)
        patience = timedelta(seconds=PATIENCE)
        async with stdio_client(command) as (reading, writing), ClientSession(reading, writing, patience) as session:
            await session.initialize()

            async def call(tool: str, **arguments: Any) -> tuple[bool, str]:
                answer = await session.call_tool(tool, arguments)
                return answer.isError, "".join(getattr(part, "text", "") for part in answer.content)

            tools = {tool.name for tool in (await session.list_tools()).tools}
            assert tools == {"list_jobs", "show_job", "job_log", "job_curve", "list_boxes", "submit_job"}
            failed, text = await call("list_jobs")
            assert not failed and json.loads(text)["id"] == runs and json.loads(text)["loss"] is None
            assert await call("job_log", job="runs") == (False, "step 1\n")
            assert "box-a" in (await call("list_boxes"))[1] and (await call("show_job", job="runs"))[0] is False
            failed, text = await call("submit_job", job_file={**JOB, "priority": "soon"})
            assert failed and "priority" in text
            failed, text = await call("submit_job", job_file=JOB)
            assert not failed and store.get(json.loads(text)["id"]).name == "tiny"
            failed, text = await call("show_job", job="nothing")
            assert failed and "nothing" in text

    run_apart(talk())
