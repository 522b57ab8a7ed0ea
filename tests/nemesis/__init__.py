"""Never lost, never twice: rounds of seeded faults against real workers, and a checker over what was recorded.

    plan        what will happen, a pure function of a seed, told as a story
    harness     a cluster of several boxes and what does it to them
    witness/    what every process of pi0q and every trainer writes down meanwhile
    history     what was written down, put together
    check       what must hold of it, pure
    report      what was survived

`make nemesis ROUNDS=1000 SEED=1`; `make nemesis SEED=<n> ROUNDS=1` plays a failing seed again.
"""
