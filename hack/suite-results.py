#!/usr/bin/env python3
"""Results of the upstream node suite, spec by spec.

    suite-results.py collect OUT            from OUT/junit_01.xml: passed.txt and failed.txt, one name a line, and what to print
    suite-results.py compare NAMES OUT...   what became of each spec named in the file NAMES in the runs that are in OUT...
    suite-results.py focus NAMES            the regular expression that chooses the specs named in the file NAMES
"""
import os
import re
import sys
import xml.etree.ElementTree as xml


def names_in(path):
    """The names in a file; lines that begin with # are none."""
    with open(path) as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def collect(out):
    names = {"passed": [], "failed": []}
    for case in xml.parse(os.path.join(out, "junit_01.xml")).iter("testcase"):
        wrong = case.find("failure") is not None or case.find("error") is not None
        if wrong and "BeforeSuite" in case.get("name"):
            # Nothing ran then: the agent did not come up the way the suite wants it.
            cause = next(part for part in (case.find("failure"), case.find("error")) if part is not None)
            print(case.get("name"), "FAILED:", (cause.get("message") or cause.text or "").strip().split("\n")[0])
        if case.find("skipped") is None and case.get("name").startswith("[It]"):
            names["failed" if wrong else "passed"].append(case.get("name"))
    for state, found in names.items():
        with open(os.path.join(out, state + ".txt"), "w") as file:
            file.writelines(name + "\n" for name in sorted(found))
    for name in sorted(names["failed"]):
        print("FAILED", name)
    print(f"{len(names['passed'])} passed, {len(names['failed'])} failed")


def compare(path, outs):
    """Prints the state of each spec, and the sums. Returns whether all have passed."""
    states = {}
    for out in outs:
        for state in ("passed", "failed"):
            for name in names_in(os.path.join(out, state + ".txt")):
                states[name] = state
    wanted = names_in(path)
    found = [states.get(name, "not run") for name in wanted]
    for name, state in sorted(zip(wanted, found)):
        print(f"{state:8}{name}")
    print(", ".join(f"{found.count(state)} {state}" for state in ("passed", "failed", "not run")), f"of {len(wanted)}")
    return found.count("passed") == len(wanted)


def focus(path):
    # The suite knows a spec by its text alone; a report puts the kind of its node before that.
    texts = (re.sub(r"^\[It\] ", "", name) for name in names_in(path))
    # Letters, digits, blanks, and what Go's regular expressions take after a backslash.
    print("|".join(re.sub(r"([^\w\s])", r"\\\1", text) for text in texts))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["collect", out]:
            collect(out)
        case ["compare", names, *outs] if outs:
            sys.exit(0 if compare(names, outs) else 1)
        case ["focus", names]:
            focus(names)
        case _:
            sys.exit(__doc__)
