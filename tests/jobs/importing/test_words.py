"""Words come out as bash makes them; what only a run would tell stays unknown."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pi0q.jobs.errors import UsageError
from pi0q.jobs.importing.report import Report
from pi0q.jobs.importing.script import read

BASH = shutil.which("bash")
#: Each starts lerobot-train once; bash says with which words.
SCRIPTS = [
    r"""lerobot-train --a=1 --b 2 '--c=x y' "--d=x  y" --e=x\ y --f=a\"b --g='a'"b"c""",
    r"""X=5; Y="a b"; lerobot-train --x=$X --y="$Y" --z=$Y "$Y" $Y '$Y' \$Y "\$Y" "a\b" 'a\b' a\b""",
    r"""A=(--a=1 "--b=x y" --c=$((1+2))); A+=(--d); lerobot-train "${A[@]}" ${A[1]} "${A[1]}" "${#A[@]}" "${A[*]}" """,
    r"""A=(1 "2 3" 4); lerobot-train x"${A[@]}"y "x${A[@]}y" ${A[@]:1}""",
    r"""E=(); lerobot-train "${E[@]}" "" '' ${EMPTY:-} "${EMPTY:-}" a""",
    r"""R=lab/pour_v1; lerobot-train ${R##*/} ${R%/*} ${R#*/} ${R%%/*} ${R/lab/x}""",
    r"""R=lab/pour_v1; lerobot-train ${R//\//_} ${R^^} ${#R} ${R:4} ${R:0:3}""",
    r"""lerobot-train "${U:-lab/x}" ${U:-a b} "${U:-a b}" ${U:+no} ${U:=set} $U "${V:-"q r"}" ${W:-'s t'}""",
    r"""S=12000; lerobot-train $((S / 4)) $(( S*2 + 1 )) $((-7 / 2)) $((-7 % 3)) $(( S > 5 ? 1 : 2 ))""",
    r"""S=12000; lerobot-train $((2**10)) $(($S-1)) $(((1+2)*3))""",
    'lerobot-train --a=\'{\n  "x": 1,\n  "y": 2\n}\' --b="\n  q ${X:-5}\n  r" \\\n  --c \\\n  --d',
    r"""lerobot-train $'--a\tb\x41\u00e9' "$(basename /a/b.sh .sh)" $(dirname /a/b/c) `basename /x/y`""",
    'ARGS="--a=1 \\\n  --b=2"\nlerobot-train $ARGS "$ARGS"',
    'A=1 B=2\nC="--x=$A"\nlerobot-train $C $B',
    r"""X=1; X+=2; Y=(a); Y+=(b c); lerobot-train $X "${Y[@]}" $Y "${Y[-1]}" """,
    'A=(\n  # why\n  --x=1   # one\n  --y=2\n)\nlerobot-train "${A[@]}" # the end\n',
    r"""if [ -z "$N" ]; then M=a; else M=b; fi; [ "$M" = a ] && K=1 || K=2; lerobot-train $M $K""",
    r"""N=3; if [ "$N" -gt 2 ] && [[ $N != 4 ]]; then M=big; elif true; then M=x; else M=small; fi; lerobot-train $M""",
    r"""T=full; case "$T" in lora) X=1;; full|all) X=2;; *) X=3;; esac; lerobot-train $X""",
    r"""T=else; case $T in lora) X=1;; *) X=3;; esac; lerobot-train $X""",
    r"""f() { local x=$1; shift; lerobot-train --x=$x "$2" $#; }; x=9; f a b c""",
    r"""run() { lerobot-train "$@"; }; run --a="1 2" --b""",
    r"""for S in 7; do lerobot-train --seed=$S; done""",
    r"""set -- --a --b; lerobot-train "$@" $1 $#""",
    r"""export S=4; (S=5); { T=6; }; lerobot-train $S $T""",
    r"""CMD="lerobot-train --a=1"; $CMD --b""",
    r"""CMD=(lerobot-train --a="1 2"); "${CMD[@]}" --b""",
    r"""eval "lerobot-train --a='1 2' --b" """,
    r"""export N=5; M=6; bash_c='lerobot-train --n=$N --m=$M'; N=$N; eval $bash_c""",
    "false || lerobot-train --a",
    "cd / && lerobot-train --a 2>&1 | cat",
    r"""declare -A L=([pi0]=2.5e-5 ["a b"]="1 2"); P=pi0; lerobot-train ${L[$P]} "${L["a b"]}" "${L[pi0]}x" """,
    r"""declare -A M; M[a]=5; M["b"]=6; I=1; A=(x y); lerobot-train ${M[a]} ${M[b]} ${A[$I]} ${A[I]}""",
    "lerobot-train --a 2> /dev/null --b 2>&1 --c < /dev/null --d",
    "lerobot-train --a <<< y --b",
    "lerobot-train --a <<EOF --b\nx\nEOF",
    "2>/dev/null lerobot-train --a",
    r"""lerobot-train --a="{\"x\": \"y\"}" --r="(.*\\.(q|v)_proj)" --s='(.*\.(q|v)_proj)' """,
    "lerobot-train --e=[0,1,2] --glob=x*y --q=a?b",
    r"""X="a'b"; lerobot-train "$X" 'it'\''s' "tab	x" """,
    r"""U=; lerobot-train "${U:-empty}" "${U-empty}" ${U:+x} "${U+y}" """,
    r"""A="x y"; B=$A; C="$A"z; lerobot-train "$B" "$C" """,
]


def words_by_bash(script: str, folder: Path) -> list[str]:
    stub = 'lerobot-train() { printf "%s\\0" "$@"; }\n'
    done = subprocess.run(
        [str(BASH), "-c", stub + script],
        capture_output=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.skipif(not BASH, reason="needs bash to compare with")
@pytest.mark.parametrize("script", SCRIPTS)
def test_words_are_those_that_bash_makes(script: str, tmp_path: Path) -> None:
    expected = words_by_bash(script, tmp_path)
    assert expected
    found = [command for command in read(script, Report()).commands if command.words[0].text == "lerobot-train"]
    assert len(found) == 1
    assert all(word.known for word in found[0].words)
    assert [word.text for word in found[0].words[1:]] == expected


@pytest.mark.parametrize(
    ("script", "source", "why"),
    [
        ("lerobot-train --x=$DATA", "$DATA", "not set in the script"),
        ("lerobot-train --x=$(date +%s)", "$(date +%s)", "only a run"),
        ("lerobot-train --x=`date`", "`date`", "only a run"),
        ("lerobot-train --x=$1", "$1", "an argument of the script"),
        ("read X; lerobot-train --x=$X", "$X", "`read` on line 1 sets"),
        ("for X in 1 2; do lerobot-train --x=$X; done", "$X", "the loop on line 1 sets to 1, 2"),
        ("while ! [ -f x ]; do X=1$X; done; lerobot-train --x=$X", "$X", "the loop on line 1 changes"),
        ("if [ -f x ]; then X=1; else X=2; fi; lerobot-train --x=$X", "$X", "the `if` on line 1 may change"),
        ("[ -f x ] && X=1; lerobot-train --x=$X", "$X", "the condition on line 1 may change"),
        ("case $(uname) in a) X=1;; b) X=2;; esac; lerobot-train --x=$X", "$X", "the `case` on line 1 may change"),
        ("X=~/data; lerobot-train --x=$X", "~", "home directory"),
        ("lerobot-train --x={1,2}", "{1,2}", "several words"),
        ("lerobot-train --x=${X@Q}", "${X@Q}", "does not work out"),
        ("lerobot-train --x=${!X}", "${!X}", "does not work out"),
        ("declare -A M=([a]=b); lerobot-train --x=${M[c]}", "${M[…]}", "no such key"),
        ("declare -A M=([a]=b); M[$(date)]=c; lerobot-train --x=${M[a]}", "${M[a]}", "does not work out"),
        (". ./conf.sh\nlerobot-train --x=${X:-1}", "${X:-1}", "./conf.sh, which line 1 reads in"),
        ("lerobot-train --x=$((N / 0))", "$((N / 0))", "does not work out"),
        ("lerobot-train --x=${X:?must}", "${X:?must}", "not set in the script"),
        ("lerobot-train --x=$RANDOM", "$RANDOM", "not set in the script"),
        ("lerobot-train --x=$?", "$?", "does not work out"),
    ],
)
def test_what_only_a_run_tells_stays_unknown(script: str, source: str, why: str) -> None:
    (found,) = [command for command in read(script, Report()).commands if command.words[0].text == "lerobot-train"]
    (unknown,) = found.words[1].unknown
    assert unknown.source == source and why in unknown.why


@pytest.mark.parametrize(
    "script",
    [
        "A=xxxxxxxx\n" + "A=$A$A\n" * 40,
        "A=(a b)\n" + 'A=("${A[@]}" "${A[@]}")\n' * 40,
        "f() { f; f; }\nf",
        "a() { :; :; }\n" + "".join(f"f{n}() {{ f{n - 1}; f{n - 1}; }}\n" for n in range(1, 40)) + "f39",
        "(" * 3000 + "lerobot-train --x" + ")" * 3000,
    ],
)
def test_a_script_that_grows_without_end_is_refused_or_read_in_bounds(script: str) -> None:
    try:
        read(script, Report())
    except UsageError as refused:
        assert "nothing was written" in str(refused)
