"""The data of the comparisons, from formulas that `cases.rs` beside this file repeats bit for bit: no library function is used."""

import math

MASK = (1 << 64) - 1
SHAPES = [
    "uniform", "shift", "scale", "ties", "quarters", "few", "two", "constant", "constants", "heavy", "offset", "tiny", "holes",
    "apart", "walk", "counts",
]


class Random:
    """Knuth's MMIX generator, the upper 53 bits."""

    def __init__(self, seed):
        self.state = seed & MASK
        self.next()

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return (self.state >> 11) * 2.0**-53

    def normal(self):
        total = 0.0
        for _ in range(12):
            total += self.next()
        return total - 6.0


def values(rng, shape, n, current):
    """n values of the reference, or of what is compared with it."""
    out, level = [], 0.0
    for i in range(n):
        if shape == "uniform":
            v = rng.next()
        elif shape == "shift":
            v = rng.normal() + (0.3 if current else 0.0)
        elif shape == "scale":
            v = rng.normal() * (1.5 if current else 1.0)
        elif shape == "ties":
            v = float(math.floor(rng.next() * 8.0))
        elif shape == "quarters":
            v = math.floor(rng.next() * (44.0 if current else 40.0)) / 4.0
        elif shape == "few":
            v = float(math.floor(rng.next() * 3.0))
        elif shape == "two":
            v = 1.0 if rng.next() < (0.6 if current else 0.5) else 0.0
        elif shape == "constant":
            v = 2.5
        elif shape == "constants":
            v = 2.75 if current else 2.5
        elif shape == "heavy":
            v = 1.0 / (rng.next() + 0.001)
        elif shape == "offset":
            v = 1e6 + rng.next()
        elif shape == "tiny":
            v = 1e-9 * rng.next()
        elif shape == "holes":
            v = rng.normal()
            v = math.nan if i % 7 == 3 else math.inf if i % 11 == 5 else -math.inf if i % 13 == 6 else v
        elif shape == "apart":
            v = rng.next() + (0.9 if current else 0.0)
        elif shape == "walk":
            level += rng.next() - 0.5
            v = level
        elif shape == "counts":
            v = float(math.floor(rng.next() * (13.0 if current else 12.0)))
        else:
            raise ValueError(shape)
        out.append(v)
    return out


def pair(case):
    rng = Random(case["seed"])
    return values(rng, case["shape"], case["n"], False), values(rng, case["shape"], case["m"], True)


def stream(case):
    """A stream of values, changed from its second half on."""
    rng, out = Random(case["seed"]), []
    for i in range(case["n"]):
        late = 2 * i >= case["n"]
        if case["kind"] == "step":
            v = rng.normal() + (1.0 if late else 0.0)
        elif case["kind"] == "quiet":
            v = rng.normal()
        elif case["kind"] == "ramp":
            v = rng.next() + i / case["n"]
        elif case["kind"] == "noise":
            v = rng.normal() * (3.0 if late else 1.0)
        elif case["kind"] == "errors":
            v = 1.0 if rng.next() < (0.5 if late else 0.2) else 0.0
        elif case["kind"] == "fewer":
            v = 1.0 if rng.next() < (0.1 if late else 0.4) else 0.0
        else:
            v = rng.next() * (1.0 if late else 0.7)
        out.append(v)
    return out


def two_sample_cases(first, count):
    """Sizes from tiny to beyond where SciPy leaves exact p-values."""
    cases = []
    for seed in range(first, first + count):
        rng = Random(seed * 7919)
        most = 20.0 if seed % 5 == 0 else 2500.0
        n, m = (4 + math.floor(rng.next() * rng.next() * most) for _ in range(2))
        n += 10000 if seed % 25 == 1 else 0
        cases.append({"seed": seed, "shape": SHAPES[seed % len(SHAPES)], "n": n, "m": m})
    return cases


# Name, kind and shape: in no order, so that the order in a report is the report's own.
COLUMNS = [
    ("load", "float", "shift"), ("temp", "float", "quarters"), ("state", "int", "few"), ("code", "int", "counts"),
    ("kind", "str", "few"), ("mode", "str", "two"), ("flag", "float", "two"), ("flow", "float", "holes"),
    ("hours", "float", "uniform"), ("fixed", "float", "constant"), ("alarm", "int", "two"), ("heat", "float", "heavy"),
]


def table_cases(first, count):
    cases = []
    for seed in range(first, first + count):
        rng = Random(seed * 104729)
        n = 40 + math.floor(rng.next() * (2400.0 if seed % 2 else 900.0))
        m = 30 + math.floor(rng.next() * 300.0)
        columns = [list(c) for i, c in enumerate(COLUMNS) if rng.next() < 0.5 or i == seed % len(COLUMNS)]
        cases.append({"seed": seed, "n": n, "m": m, "columns": columns})
    return cases


def table(case):
    """Columns by name, of the reference and of the current table."""
    reference, current = {}, {}
    for index, (name, kind, shape) in enumerate(case["columns"]):
        rng = Random(case["seed"] * 1000 + index)
        for to, n, late in ((reference, case["n"], False), (current, case["m"], True)):
            drawn = values(rng, shape, n, late)
            to[name] = (
                drawn if kind == "float" else [int(v) for v in drawn] if kind == "int" else [f"k{int(v)}" for v in drawn]
            )
    return reference, current


def stream_cases(first, count):
    kinds = ["step", "quiet", "ramp", "noise", "errors", "fewer", "share"]
    return [{"seed": s, "kind": kinds[s % len(kinds)], "n": 1000 + 500 * (s % 3)} for s in range(first, first + count)]
