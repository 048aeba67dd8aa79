"""``where=``: a condition on the columns of ``samples.parquet``, written as text.

A small part of Python's expressions, of which nothing is ever run: the text is parsed, each part
is looked up here, and a pyarrow expression comes out. As in SQL, a comparison with a missing value
is neither true nor false, and a sample is chosen only where the whole is true.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.errors import ShardError

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_COLUMN: Final = "label"

Kind = Literal["number", "text", "truth", "other"]

_MAX_CHARACTERS: Final = 4000
_MAX_PARTS: Final = 300
"""Besides literals: few enough for the recursion below."""
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"""")
_SLIPS: Final = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"\bclass\b", "the column of the class is called 'label'"),
        (r"\b(AND|OR|NOT|IN|IS)\b", "write 'and', 'or', 'not', 'in' and 'is' in lower case"),
        (r"&&|\|\|", "write 'and' and 'or'"),
        (r"<>", "write != for 'other than'"),
        (r"(?<![=!<>])=(?!=)", "use == to compare"),
    )
)
"""What people write who know SQL or C, where it is no syntax here."""
_LITERALS: Final = {"true": "True", "false": "False", "null": "None", "none": "None"}
_SHOWN: Final = 20
_INT64: Final = range(-(1 << 63), 1 << 63)
_COMPARE: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: Final[Mapping[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}
_ALLOWED: Final = (
    "write comparisons of columns, numbers and 'text', with in [...], is None, and, or, not, "
    "+ - * /"
)
_HOLDS: Final[Mapping[Kind, str]] = {
    "number": "is a number",
    "text": "is text",
    "truth": "is True or False",
    "other": "is of a type that can only be compared with None",
}


class WhereError(ShardError, ValueError):
    """A selection that cannot be meant; the message has its text, the fault and the remedy."""


class Condition(NamedTuple):
    """A compiled text."""

    expression: "pa.compute.Expression"
    columns: tuple[str, ...]
    """That it uses, sorted."""


class _Operand(NamedTuple):
    kind: Kind
    expression: "pa.compute.Expression"
    is_whole: bool
    """A column or literal of whole numbers, which is compared exactly."""
    value: bool | int | float | str | None
    """Of a literal."""
    source: str


def compile_where(
    text: str, schema: "pa.Schema", *, classes: Sequence[str], has_own_labels: bool = True
) -> Condition:
    """Compile a condition, such as ``duration_seconds > 2 and codec in ["h264", "hevc"]``.

    Comparisons may be chained. Arithmetic is in float64. ``label`` may also be compared with the
    names of classes.

    Args:
        text: The condition.
        schema: Of the table.
        classes: Names that the column ``label`` counts.
        has_own_labels: Whether the labels of the table are those in use; otherwise the column
            ``label`` is refused.

    Raises:
        WhereError: If the text is not such a condition, or names a column or class that there is
            not; says the nearest.
    """
    compiler = _Compiler(text, schema, classes, has_own_labels)
    return Condition(compiler.truth(_parse(text)), tuple(sorted(compiler.used)))


def _parse(text: str) -> ast.expr:
    if len(text) > _MAX_CHARACTERS:
        raise WhereError(
            f"where={text[:40]!r}...: {len(text)} characters are too many ({_MAX_CHARACTERS} at "
            "most); give a pyarrow expression"
        )
    line = text.replace("\n", " ").strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            parsed = ast.parse(line, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = _place_of(error, line) if isinstance(error, SyntaxError) else error
        plain = _QUOTED.sub("''", line)
        hints = [hint for pattern, hint in _SLIPS if pattern.search(plain)]
        raise WhereError(
            f"where={text!r}: not a condition ({problem}); {'; '.join(hints) or _ALLOWED}"
        ) from error
    parts = [node for node in ast.walk(parsed) if not isinstance(node, ast.Constant)]
    if len(parts) > _MAX_PARTS:
        raise WhereError(f"where={text!r}: too long; give a pyarrow expression")
    return parsed.body


def _place_of(error: SyntaxError, line: str) -> str:
    """Return what is wrong with a text, and where."""
    # 0 is Python's end of a text.
    rest = line[error.offset - 1 :] if error.offset else ""
    if not rest.strip():
        return f"{error.msg} at its end"
    return f"{error.msg} at {rest[:_SHOWN]!r}{'...' if len(rest) > _SHOWN else ''}"


class _Compiler:
    """Turns the parts of one text into expressions."""

    def __init__(
        self, text: str, schema: "pa.Schema", classes: Sequence[str], has_own_labels: bool
    ) -> None:
        self._text = text
        self._schema = schema
        self._classes = list(classes)
        self._has_own_labels = has_own_labels
        self.used: set[str] = set()

    def truth(self, node: ast.expr) -> "pa.compute.Expression":
        """Compile what is true or false."""
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(value) for value in node.values]
            is_and = isinstance(node.op, ast.And)
            return reduce(operator.and_ if is_and else operator.or_, parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.truth(node.operand)
        if isinstance(node, ast.Compare):
            return self._chain(node)
        operand = self._operand(node)
        if operand.kind != "truth":
            raise self._error(
                f"{operand.source!r} {_HOLDS[operand.kind]}, not a condition; compare it"
            )
        return operand.expression

    def _chain(self, node: ast.Compare) -> "pa.compute.Expression":
        lefts = [node.left, *node.comparators]
        links = zip(lefts, node.ops, node.comparators, strict=False)
        return reduce(operator.and_, [self._compare(*link) for link in links])

    def _compare(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> "pa.compute.Expression":
        if not isinstance(sign, (ast.Is, ast.IsNot)):
            self._check_quotes(left, right)
        first = self._operand(left)
        if isinstance(sign, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._error(f"'is' compares with None alone, not with {_source(right)!r}")
            is_null = first.expression.is_null()
            return is_null if isinstance(sign, ast.Is) else ~is_null
        if isinstance(sign, (ast.In, ast.NotIn)):
            contained = self._is_in(first, right)
            return contained if isinstance(sign, ast.In) else ~contained
        second = self._operand(right)
        if isinstance(sign, (ast.Eq, ast.NotEq)):
            first, second = self._class_number(first, second), self._class_number(second, first)
        self._check_kinds(first, second)
        a, b = first.expression, second.expression
        if first.kind == "number" and not (first.is_whole and second.is_whole):
            a, b = _as_float(a), _as_float(b)
        return _COMPARE[type(sign)](a, b)

    def _is_in(self, first: _Operand, right: ast.expr) -> "pa.compute.Expression":
        import pyarrow as pa
        import pyarrow.compute as pc

        if not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            raise self._error(f"'in' needs a list such as [1, 2], not {_source(right)!r}")
        entries = []
        for node in right.elts:
            entry = self._operand(node)
            if entry.value is None:
                raise self._error(
                    f"the list of 'in' holds numbers and 'text', not {entry.source!r}"
                )
            entry = self._class_number(entry, first)
            self._check_kinds(first, entry)
            entries.append(entry)
        a = first.expression
        kind: Any = {"text": pa.string(), "truth": pa.bool_()}.get(first.kind, pa.int64())
        if first.kind == "number" and not all(entry.is_whole for entry in (first, *entries)):
            a, kind = _as_float(a), pa.float64()
        contained = a.isin(pa.array([entry.value for entry in entries], kind))
        # Arrow finds a missing value in no list, which 'not in' would turn into True.
        return pc.if_else(a.is_valid(), contained, pc.scalar(pa.scalar(None, pa.bool_())))

    def _check_quotes(self, left: ast.expr, right: ast.expr) -> None:
        """Refuse a word that is no column beside a column of text: its quotes are missing."""
        others = right.elts if isinstance(right, (ast.List, ast.Tuple, ast.Set)) else [right]
        for one, column in [(other, left) for other in others] + [(left, right)]:
            if not isinstance(one, ast.Name) or one.id in self._schema.names:
                continue
            if isinstance(column, ast.Name) and self._is_named_text(column.id):
                is_null = _LITERALS.get(one.id.lower()) == "None"
                raise self._error(
                    f"there is no column {one.id!r}; if it is a text, write it in quotes: "
                    f'"{one.id}"' + "; a missing value is found by 'is None'" * is_null
                )

    def _is_named_text(self, name: str) -> bool:
        """Tell whether a column is compared with text: it holds some, or classes."""
        if name not in self._schema.names:
            return False
        return name == LABEL_COLUMN or column_kind(self._schema.field(name).type) == "text"

    def _class_number(self, entry: _Operand, other: _Operand) -> _Operand:
        """Return the number of a class that is compared by its name."""
        if other.source != LABEL_COLUMN or not isinstance(entry.value, str):
            return entry
        if entry.value not in self._classes:
            raise self._error(
                f"there is no class {entry.value!r} for the column {LABEL_COLUMN!r}"
                f"{did_you_mean(entry.value, self._classes, cutoff=0.0)}"
            )
        return _literal(self._classes.index(entry.value), entry.source)

    def _check_kinds(self, first: _Operand, second: _Operand) -> None:
        if first.kind != second.kind or first.kind == "other":
            raise self._error(
                f"{first.source!r} {_HOLDS[first.kind]}, {second.source!r} {_HOLDS[second.kind]}; "
                "they cannot be compared"
            )

    def _operand(self, node: ast.expr) -> _Operand:
        """Compile a column, a literal, or arithmetic."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=value) if isinstance(value, (bool, int, float, str)):
                return _literal(value, _source(node))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                return self._signed(node, self._number(inner), isinstance(node.op, ast.USub))
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise self._error("'&' and '|' are not used here; write 'and' and 'or'")
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                return self._arithmetic(node, _ARITHMETIC[type(sign)], (left, right))
            case ast.Constant(value=None):
                raise self._error("None is compared with 'is' and 'is not'")
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return _Operand("truth", self.truth(node), False, None, _source(node))
        raise self._error(f"{_source(node)!r} is not possible here; {_ALLOWED}")

    def _arithmetic(
        self, node: ast.expr, function: str, sides: tuple[ast.expr, ast.expr]
    ) -> _Operand:
        import pyarrow.compute as pc

        # Whole numbers would wrap around, and a quotient of them would lose its fraction.
        left, right = (_as_float(self._number(side).expression) for side in sides)
        return _Operand("number", getattr(pc, function)(left, right), False, None, _source(node))

    def _signed(self, node: ast.expr, operand: _Operand, is_negative: bool) -> _Operand:
        import pyarrow.compute as pc

        if isinstance(operand.value, (int, float)):
            return _literal(-operand.value if is_negative else operand.value, _source(node))
        number = _as_float(operand.expression)
        signed = pc.negate(number) if is_negative else number
        return _Operand("number", signed, False, None, _source(node))

    def _number(self, node: ast.expr) -> _Operand:
        operand = self._operand(node)
        if operand.kind != "number":
            raise self._error(f"{operand.source!r} {_HOLDS[operand.kind]}; a number is needed")
        return operand

    def _column(self, name: str) -> _Operand:
        import pyarrow as pa
        import pyarrow.compute as pc

        if name not in self._schema.names:
            if name.lower() in _LITERALS:
                raise self._error(f"write {_LITERALS[name.lower()]}, not {name!r}")
            hint = did_you_mean(name, self._schema.names, cutoff=0.0)
            raise self._error(f"there is no column {name!r}{hint}")
        if name == LABEL_COLUMN and not self._has_own_labels:
            raise self._error(
                f"the column {name!r} has the labels that the dataset was made with, not those in "
                "use; choose by class with classes="
            )
        self.used.add(name)
        stored, field = self._schema.field(name).type, pc.field(name)
        kind = column_kind(stored)
        is_whole = pa.types.is_integer(stored) and not pa.types.is_uint64(stored)
        if kind == "text":
            field = field.cast(pa.string())
        elif is_whole:
            field = field.cast(pa.int64())
        return _Operand(kind, field, is_whole, None, name)

    def _error(self, problem: str) -> WhereError:
        return WhereError(f"where={self._text!r}: {problem}")


def column_kind(arrow_type: "pa.DataType") -> Kind:
    """Return what a column holds."""
    import pyarrow as pa

    types = pa.types
    if types.is_boolean(arrow_type):
        return "truth"
    if types.is_integer(arrow_type) or types.is_floating(arrow_type):
        return "number"
    if types.is_dictionary(arrow_type):
        return "text" if column_kind(arrow_type.value_type) == "text" else "other"
    return "text" if types.is_string(arrow_type) or types.is_large_string(arrow_type) else "other"


def _literal(value: bool | int | float | str, source: str) -> _Operand:
    import pyarrow.compute as pc

    kind: Kind = "number"
    if isinstance(value, bool):
        kind = "truth"
    elif isinstance(value, str):
        kind = "text"
    is_whole = kind == "number" and isinstance(value, int) and value in _INT64
    if kind == "number" and not is_whole:
        value = _float(value)
    return _Operand(kind, pc.scalar(value), is_whole, value, source)


def _float(value: float | str) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if int(value) > 0 else -math.inf


def _as_float(expression: "pa.compute.Expression") -> "pa.compute.Expression":
    import pyarrow as pa

    return expression.cast(pa.float64(), safe=False)


def _source(node: ast.expr) -> str:
    return ast.unparse(node)
