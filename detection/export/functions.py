"""Operations of an exported graph that ONNX lacks, as local functions of ONNX operators: any runtime has them.

    LinearScan(a, b)         h(t) = a(t)·h(t − 1) + b(t)
    MaxAffineScan(s, a, b)   h(t) = max(s(t)·h(t − 1) + a(t), b(t)), s ≥ 0
    Settle(over)             greedy suppression: kept is what nothing kept suppresses

Both scans are over the first axis, h is 0 before it. A step is a map of h, and after round r of a loop a location holds
the composition of its last 2^r steps (Hillis and Steele 1986): ⌈log₂ T⌉ rounds, however long the line is.
"""

# B images, M boxes of one, T steps, N lines, D hidden size.

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DOMAIN = "detection"

# Each carried tensor is kept up to `shift` and composed with its predecessor from there on.
_SCAN = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{name} ({names}) => (h)
{{
    length = Shape <start = 0, end = 1> ({last})
    first = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    most = Constant <value = int64 {{63}}> ()
    is_long = Less (one, length)
    begin = Squeeze (is_long)
    {outs}, final_shift = Loop (most, begin, {names}, one) <body = compose (
        int64 round, bool going, {carried}, int64[1] shift
    ) => (bool more, {composed}, int64[1] shift_next)
    {{
        rest = Sub (length, shift)
{slices}
{rule}
{joins}
        shift_next = Add (shift, shift)
        is_before = Less (shift_next, length)
        more = Squeeze (is_before)
    }}>
    {result}
}}
"""

_LINEAR_RULE = """
        b_carried = Mul (a_later, b_before)
        b_new = Add (b_carried, b_later)
        a_new = Mul (a_later, a_before)
"""

_MAX_AFFINE_RULE = """
        a_carried = Mul (s_later, a_before)
        a_new = Add (a_carried, a_later)
        b_scaled = Mul (s_later, b_before)
        b_carried = Add (b_scaled, a_later)
        b_new = Max (b_carried, b_later)
        s_new = Mul (s_later, s_before)
"""

_SETTLE = """
<domain: "{domain}", opset_import: ["" : {opset}]>
Settle (over) => (kept)
{{
    sizes = Shape <start = 0, end = 2> (over)
    most = Constant <value = int64 {{9223372036854775807}}> ()
    begin = Constant <value = bool {{1}}> ()
    none = Constant <value = float {{0.0}}> ()
    middle = Constant <value = int64[1] {{1}}> ()
    all_kept = ConstantOfShape <value = float[1] {{1.0}}> (sizes)
    kept = Loop (most, begin, all_kept) <body = settle (
        int64 round, bool going, float[B, M] before
    ) => (bool more, float[B, M] settled)
    {{
        rows = Unsqueeze (before, middle)
        products = MatMul (rows, over)
        suppressors = Squeeze (products, middle)
        is_free = Equal (suppressors, none)
        settled = Cast <to = 1> (is_free)
        change = Sub (settled, before)
        size = Abs (change)
        largest = ReduceMax <keepdims = 0> (size)
        more = Greater (largest, none)
    }}>
}}
"""


def functions(used: set[str], opset: int) -> "list[onnx.FunctionProto]":
    """Return the local functions of these names, in this version of ONNX's operators."""
    from onnx import parser

    texts = {
        "LinearScan": _scan("LinearScan", ("a", "b"), _LINEAR_RULE, "h = Identity (b_out)", opset),
        "MaxAffineScan": _scan("MaxAffineScan", ("s", "a", "b"), _MAX_AFFINE_RULE, "h = Max (a_out, b_out)", opset),
        "Settle": _SETTLE.format(domain=DOMAIN, opset=opset),
    }
    return [parser.parse_function(text) for name, text in texts.items() if name in used]


def _scan(name: str, names: Sequence[str], rule: str, result: str, opset: int) -> str:
    """Return a scan whose step is a map with these coefficients, (T, N, D) each, composed by `rule`."""
    slices, joins = list[str](), list[str]()
    for n in names:
        slices += [
            f"{n}_kept = Slice ({n}_in, first, shift, first)",
            f"{n}_later = Slice ({n}_in, shift, length, first)",
            f"{n}_before = Slice ({n}_in, first, rest, first)",
        ]
        joins.append(f"{n}_next = Concat <axis = 0> ({n}_kept, {n}_new)")
    return _SCAN.format(
        domain=DOMAIN,
        opset=opset,
        name=name,
        names=", ".join(names),
        last=names[-1],
        outs=", ".join(f"{n}_out" for n in names),
        carried=", ".join(f"float[T, N, D_{n}] {n}_in" for n in names),
        composed=", ".join(f"float[T, N, D_{n}] {n}_next" for n in names),
        slices="\n".join(slices),
        rule=rule,
        joins="\n".join(joins),
        result=result,
    )
