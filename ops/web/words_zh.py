"""The Chinese of the page's words. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pi0q.queue import job_text, refusals
from pi0q.queue.box_staging import Staging
from pi0q.queue.refusals import Refusal
from pi0q.queue.wait_notes import Wait, WaitKind

#: Boxes that a reason names, at the most.
NAMED = 2

UNITS = {"d": " 天", "h": " 小时", "m": " 分", "s": " 秒"}

CHINESE = {
    "other language": "en",
    "name of the other language": "English",
    # Head.
    "Fleet": "集群",
    "Queue": "队列",
    "Jobs": "任务",
    "Boxes": "机器",
    "live": "实时",
    "not connected": "未连接",
    "The queue's server does not answer since {}; this is what it said last. Jobs keep running.": (
        "队列服务器已 {} 没有应答；以下是最后的状态。任务仍在运行。"
    ),
    # States and priorities.
    "running": "运行中",
    "queued": "排队",
    "claimed": "已认领",
    "preparing": "准备中",
    "held": "暂缓",
    "sweep": "扫参",
    "succeeded": "成功",
    "failed": "失败",
    "cancelled": "已取消",
    "low": "低",
    "normal": "普通",
    "high": "高",
    "urgent": "紧急",
    "ready": "就绪",
    "draining": "排空中",
    "drained": "已停止接收",
    "stopped": "已停止",
    "unreachable": "失联",
    "unknown": "未知",
    "is being cancelled": "正在取消",
    # Fleet.
    "jobs running": "运行中",
    "waiting": "排队",
    "jobs held": "暂缓",
    "cards in use": "使用中的卡",
    "GiB of VRAM in use": "已用显存 GiB",
    "boxes up": "在线机器",
    "failed in 24 h": "24 小时内失败",
    "Running": "运行中",
    "No job runs.": "没有运行中的任务。",
    "Next in the queue": "队列前列",
    "whole queue": "完整队列",
    "No job waits.": "没有排队的任务。",
    "No box yet. `pi0q worker` on a machine with a GPU makes it one.": (
        "还没有机器。在有 GPU 的机器上运行 `pi0q worker` 即可。"
    ),
    "Ended last": "最近结束",
    "all jobs": "全部任务",
    "{} more": "还有 {} 个",
    "{} ago": "{}前",
    "{} left": "剩 {}",
    "card": "卡",
    "loss": "损失",
    "Progress": "进度",
    "VRAM": "显存",
    "use": "利用率",
    "free": "空闲",
    "used by others": "被其他程序占用",
    "last heard {} ago": "{}前最后一次心跳",
    "{} of {} slots": "{} / {} 个槽位",
    "no GPU": "无 GPU",
    "data disk": "数据盘",
    "{} of {} free": "空闲 {} / {}",
    "{} free": "空闲 {}",
    "simulated": "模拟",
    "HF cache": "HF 缓存",
    "has whole": "已完整缓存",
    "pi0q's home": "pi0q 目录",
    "takes no job": "不接任务",
    "note": "说明",
    "inputs": "输入",
    "cache": "缓存",
    # Queue and jobs.
    "Place": "位置",
    "Job": "任务",
    "Priority": "优先级",
    "Needs": "需要",
    "Waits": "已等待",
    "Saved": "已保存",
    "By": "提交者",
    "Why it waits": "等待原因",
    "step {}": "第 {} 步",
    "in the order in which boxes take them": "按机器认领的顺序",
    "Held": "暂缓",
    "State": "状态",
    "all states": "所有状态",
    "name, id, user or box": "名称、id、用户或机器",
    "Show": "筛选",
    "Loss": "损失",
    "Time": "时间",
    "Box": "机器",
    "Note": "说明",
    "No job matches.": "没有符合的任务。",
    "Broken records": "损坏的记录",
    # One job.
    "Curves": "曲线",
    "restart": "重启",
    "checkpoint": "检查点",
    "lost": "NaN",
    "learning rate": "学习率",
    "seconds a step": "每步秒数",
    "left": "剩余",
    "steps": "步",
    "seconds each": "秒/步",
    "saved": "已保存",
    "History": "历史",
    "claim": "认领",
    "claim {}": "第 {} 次认领",
    "{} older lines: pi0q show {}": "更早的 {} 行：pi0q show {}",
    "Details": "详情",
    "Checkpoints": "检查点",
    "None yet.": "还没有。",
    "Log": "日志",
    "its last {}": "最后 {}",
    "It has written none yet.": "还没有日志。",
    "pinned": "已固定",
    "newest": "最新",
    "copied": "已复制",
    "policy": "策略",
    "dataset": "数据集",
    "batch size": "批大小",
    "needs": "需要",
    "{}, attempt {}": "第 {} 次，第 {} 次尝试",
    "trained": "已训练",
    "submitted": "提交",
    "started": "开始",
    "ended": "结束",
    "by": "提交者",
    "priority": "优先级",
    "box": "机器",
    "VRAM peak": "显存峰值",
    "Policy on the Hub": "Hub 上的策略",
    # Actions.
    "Cancel": "取消任务",
    "Hold": "暂缓",
    "Release": "放行",
    "Priority …": "优先级 …",
    "Save now": "立即保存",
    "Cancel {}?": "取消 {}？",
    "Hold {}?": "暂缓 {}？",
    "Release {}?": "放行 {}？",
    "Change the priority of {}?": "修改 {} 的优先级？",
    "Save a checkpoint of {} now?": "现在保存 {} 的检查点？",
    "It ends for good; what it saved stays.": "任务将彻底结束；已保存的内容会保留。",
    "It saves a checkpoint, stops and leaves the queue until it is released.": (
        "它会保存检查点、停止，并在放行之前不再排队。"
    ),
    "It waits in the queue again, in its old place.": "它会回到队列中原来的位置。",
    "No running job is stopped for it.": "不会因此停止任何运行中的任务。",
    "The training goes on.": "训练会继续。",
    "Yes, cancel it": "确定取消",
    "Change": "修改",
    "Back": "返回",
    "Done.": "已完成。",
    "It is asked to; its box answers in a moment.": "已发出请求；机器稍后会应答。",
    "Nothing was changed: its state no longer allows that.": "没有任何改变：任务的当前状态不允许此操作。",
    # Answers without a page.
    "To the fleet": "返回集群",
    "No such page": "没有这个页面",
    "No such job": "没有这个任务",
    "It may have been pruned. The list of jobs has all that are there.": "它可能已被清理。任务列表包含现有的全部任务。",
    "A record that cannot be read": "无法读取的记录",
    "The queue can't be read now": "现在无法读取队列",
    "Its server does not answer. Jobs keep running; this page shows them again as soon as it does.": (
        "队列服务器没有应答。任务仍在运行；恢复后本页会再次显示。"
    ),
    "Refused": "已拒绝",
    "Nothing was changed.": "没有任何改变。",
    "Something went wrong": "出错了",
    "The log of `pi0q web` says what. Nothing was changed.": "`pi0q web` 的日志里有原因。没有任何改变。",
}


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def refusal_zh(refusal: Refusal) -> str:
    """Return why a box does not take a job; kinds that hold words of a box or a tool stay as they are."""
    if isinstance(refusal, refusals.TooLittleVram):
        return (
            f"显存：需要 {refusal.gpus} 张有 {_gib(refusal.needed_mib)} 的卡，符合的有 {refusal.fitting} 张；"
            f"最好的空闲 {_gib(refusal.free_mib)} / {_gib(refusal.total_mib)}"
        )
    if isinstance(refusal, refusals.TooFewGpus):
        return f"GPU：需要 {refusal.needed} 张，该机有 {refusal.present} 张"
    if isinstance(refusal, refusals.CardsTaken):
        return "GPU：" + "，".join(f"卡 {card} 被任务 {job} 占用" for card, job in refusal.taken[:4])
    if isinstance(refusal, refusals.CardsReserved):
        return f"GPU：卡 {', '.join(map(str, refusal.cards[:8]))} 为任务 {refusal.job} 保留"
    if isinstance(refusal, refusals.SlotsInUse):
        return f"槽位已用 {refusal.used} / {refusal.slots}"
    if isinstance(refusal, refusals.TooLittleDisk):
        return f"磁盘：需要 {_gib(refusal.needed_mib)}，{refusal.path} 空闲 {_gib(max(0, refusal.free_mib))}"
    if isinstance(refusal, refusals.TooLittleSystemDisk):
        return f"系统盘：空闲 {_gib(refusal.free_mib)}，须保留 {_gib(refusal.reserve_mib)}"
    if isinstance(refusal, refusals.CheckpointElsewhere):
        return f"最多等 {refusal.seconds} 秒，让有其检查点的 {refusal.box} 继续"
    if isinstance(refusal, refusals.RetryDelay):
        return f"上次运行以 {refusal.reason} 结束：{refusal.seconds} 秒后重试"
    if isinstance(refusal, refusals.PreflightRuns):
        return "预检中：正在询问 Hub 和 WandB"
    if isinstance(refusal, refusals.Drained):
        return "该机停止接收任务"
    return mode_zh(refusal) if isinstance(refusal, refusals.WithoutCards) else str(refusal)


def mode_zh(box: refusals.WithoutCards) -> str:
    """Return what a box without cards is and does."""
    does = "只下载输入，不认领任务" if box.fetches else "不认领任务"
    told = {"here": "，该任务的输入已就绪", "coming": "，正在下载该任务的输入"}.get(box.inputs, "")
    return f"{'无卡模式' if box.no_gpu_mode else '没有卡'}：{does}{told}"


def staging_zh(staging: Staging) -> str:
    """Return what a box without cards does for waiting jobs."""
    if not staging.fetches:
        return ""
    if staging.job:
        return f"正在为任务 {staging.job} 下载" + (f"（{staging.phase}）" if staging.phase else "")
    if staging.busy:
        return "正在查看排队任务需要什么"
    ready = f"{staging.ready_count} 个排队任务的输入已就绪" if staging.ready_count else ""
    left = f"{staging.left} 个尚未就绪" if staging.left else ""
    return "，".join(filter(None, (ready, left))) or "没有排队的任务"


def wait_zh(wait: Wait) -> str:
    """Return why one job has not started."""
    if wait.kind is WaitKind.TURN:
        place = "" if wait.place is None else "下一个" if wait.place == 0 else f"前面还有 {wait.place} 个"
        start = "" if wait.start_seconds is None or not place else f"约 {span_zh(wait.start_seconds)}后开始"
        return "，".join(filter(None, [place, start, f"等待 {_either(wait.boxes)}" if wait.boxes else ""]))
    if wait.kind is WaitKind.AFTER:
        return _after(wait)
    if wait.kind is WaitKind.REFUSED and wait.refusal:
        more = f"（另有 {len(wait.boxes) - 1} 台）" if len(wait.boxes) > 1 else ""
        return f"{wait.boxes[0]}：{refusal_zh(wait.refusal)}{more}"
    if wait.kind is WaitKind.TOO_BIG:
        return f"太大：每张卡需要 {_gib(wait.needed_mib)}，最大的卡有 {_gib(wait.largest_mib)}"
    return {WaitKind.NO_BOX: "没有在线的机器", WaitKind.DRAINED: "所有机器都停止接收任务"}.get(wait.kind) or (
        f"已暂缓 {wait.held}".rstrip()
    )


def _after(wait: Wait) -> str:
    """Return what a job that nobody holds waits for outside the queue."""
    if wait.start_ms is not None:
        return f"{job_text.clock(wait.start_ms)} 开始"
    if wait.jobs:
        more = f" 等 {len(wait.jobs)} 个" if len(wait.jobs) > NAMED else ""
        return f"等待任务 {', '.join(wait.jobs[:NAMED])}{more}"
    return wait.held


def span_zh(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    return re.sub("[dhms]", lambda unit: UNITS[unit[0]], job_text.span(seconds))


def _either(names: Sequence[str]) -> str:
    return " 或 ".join(names) if len(names) <= NAMED else f"{len(names)} 台机器"
