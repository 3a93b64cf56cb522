"""Forms: what ``curl -F`` and browsers send."""

from urllib.parse import unquote_to_bytes

from driftwheel.errors import InvalidRequestError
from serving.transports.json_bodies import media_type
from serving.transports.routing import Request

_MOST_FIELDS = 16


def form_fields(request: Request) -> dict[str, bytes]:
    """The body as fields. What is no form, or is JSON though `curl -d` calls it one, is the one field ``body``.

    Raises:
        InvalidRequestError: It says that it is a form and is none, or a field came twice.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        return _unique(_multipart(request))
    if kind == "application/x-www-form-urlencoded" and not request.body.lstrip().startswith((b"{", b"[")):
        pairs = [pair.partition(b"=") for pair in request.body.replace(b"+", b" ").split(b"&", _MOST_FIELDS)]
        return _unique(
            [(unquote_to_bytes(name).decode("utf-8", "replace"), unquote_to_bytes(v)) for name, _, v in pairs]
        )
    return {"body": request.body}


class _Parts:
    """Collects the parts of a multipart body; its methods are the parser's callbacks."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, bytes]] = []
        self.ended = False
        self._disposition = self._header = b""
        self._value: list[bytes] = []

    def on_part_begin(self) -> None:
        if len(self.fields) == _MOST_FIELDS:
            raise InvalidRequestError(f"a form may have {_MOST_FIELDS} fields, this one has more")
        self._disposition, self._value = b"", []

    def on_header_begin(self) -> None:
        self._header = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition += data[start:end]

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._value.append(data[start:end])

    def on_part_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self.fields.append((name.decode("utf-8", "replace"), b"".join(self._value)))

    def on_end(self) -> None:
        self.ended = True


def _multipart(request: Request) -> list[tuple[str, bytes]]:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(request.header(b"content-type"))[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidRequestError("content-type multipart/form-data must name its boundary")
    parts = _Parts()
    callbacks = {name: getattr(parts, name) for name in dir(parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(request.body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError(f"the body is not multipart/form-data: {error}") from None
    if not parts.ended:
        raise InvalidRequestError("the multipart/form-data body is cut short")
    return parts.fields


def _unique(fields: list[tuple[str, bytes]]) -> dict[str, bytes]:
    unique = dict(fields)
    if len(unique) != len(fields):
        raise InvalidRequestError("a field of the form came twice; one request has one input")
    return unique
