"""ModelInferRequest without parsing one: what a client sends again and again differs only in its raw contents.

Protobuf writes fields in the order of their numbers, so that a request's raw contents come last. All before them (the
model's name, the inputs' names, datatypes and shapes) is its form. A form that was parsed and answered once is known; when
it comes again, byte for byte, the raw contents behind it are cut out at places that are known too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from driftwheel.contracts import InputSpec, Signature
from serving._proto import open_inference_pb2 as pb
from serving.checking import check_finite
from serving.codec import NUMPY_TYPES, Columns, Raw
from serving.engine import LoadedVersion
from serving.transports.oip_response import field, field_head
from serving.versions import parse_version

_RAW_INPUT_CONTENTS = 7 << 3 | 2

_LONGEST_FORM = 2048
_MOST_FORMS = 1024
_MOST_LENGTHS = 8
"""Clients of one model write a few lengths of forms: a name, a handful of numbers of digits."""

Decoded = tuple[Columns, int]


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A known form, and what it says."""

    model: str
    version: int | None
    signature: Signature
    """That of the version which answered; another one's requests are decoded anew."""
    rows: int
    contents: tuple[tuple[str, bytes, slice, slice], ...]
    """The raw contents: each input's name, the bytes before its content, and where in the message those two lie."""
    numbers: tuple[InputSpec, ...]
    """The inputs whose contents must be finite."""
    size: int
    """Of the whole message."""

    def columns(self, message: Raw) -> Columns | None:
        """The raw contents by input; None where what is behind the form is not what it was."""
        if len(message) != self.size:
            return None
        columns: dict[str, Raw] = {}
        for name, head, before, content in self.contents:
            if message[before] != head:
                return None
            columns[name] = message[content]
        return columns

    def decoder(
        self, columns: Columns, parse: Callable[[LoadedVersion], Decoded]
    ) -> Callable[[LoadedVersion], Decoded]:
        """For ``InferCall.decode``; ``parse`` is the long way, for a version with another signature."""

        def decode(loaded: LoadedVersion) -> Decoded:
            if loaded.signature is not self.signature or self.rows > loaded.limits.max_rows_per_request:
                return parse(loaded)
            for spec in self.numbers:
                check_finite(spec, columns[spec.name])
            return columns, self.rows

        return decode


class KnownForms:
    """The forms that have been answered. Bounded: what a client sends never grows it for good."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[bytes, Form]] = {}

    def match(self, message: Raw) -> tuple[Form, Columns] | None:
        """The form of a message and its raw contents; None where it is not known."""
        for length, forms in self._by_length.items():
            form = forms.get(bytes(message[:length]))
            if form is not None and (columns := form.columns(message)) is not None:
                return form, columns
        return None

    def learn(self, message: Raw, request: pb.ModelInferRequest, signature: Signature, rows: int) -> None:
        """Remember the form of a request that has been answered, where it is one of those that come again."""
        raw, tensors = request.raw_input_contents, request.inputs
        if not raw or request.id or request.parameters or request.outputs:
            return
        contents = b"".join(field(_RAW_INPUT_CONTENTS, content) for content in raw)
        length = len(message) - len(contents)
        if not 0 < length <= _LONGEST_FORM or message[length:] != contents:
            return
        by_name = {spec.name: spec for spec in signature.inputs}
        specs = [by_name[tensor.name] for tensor in tensors]
        if any(spec.datatype == "BYTES" for spec in specs):
            return  # its size says nothing about its rows
        forms = self._by_length.setdefault(length, {})
        if len(forms) >= _MOST_FORMS:
            forms.clear()
        while len(self._by_length) > _MOST_LENGTHS:
            del self._by_length[next(iter(self._by_length))]
        forms[bytes(message[:length])] = Form(
            model=request.model_name,
            version=parse_version(request.model_version) if request.model_version else None,
            signature=signature,
            rows=rows,
            contents=tuple(_contents(specs, rows, length)),
            numbers=tuple(spec for spec in specs if spec.role == "number"),
            size=len(message),
        )


def _contents(specs: Sequence[InputSpec], rows: int, at: int) -> Iterator[tuple[str, bytes, slice, slice]]:
    """See ``Form.contents``; they begin ``at`` so many bytes."""
    for spec in specs:
        size = rows * NUMPY_TYPES[spec.datatype].itemsize
        head = field_head(_RAW_INPUT_CONTENTS, size)
        start = at + len(head)
        yield spec.name, head, slice(at, start), slice(start, start + size)
        at = start + size
