from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_FACTORS: _ClassVar[Source]
    SOURCE_FOLD_IN: _ClassVar[Source]
    SOURCE_POPULARITY: _ClassVar[Source]
SOURCE_UNSPECIFIED: Source
SOURCE_FACTORS: Source
SOURCE_FOLD_IN: Source
SOURCE_POPULARITY: Source

class RecommendRequest(_message.Message):
    __slots__ = ("users", "model", "version")
    USERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[UserQuestion]
    model: str
    version: int
    def __init__(self, users: _Optional[_Iterable[_Union[UserQuestion, _Mapping]]] = ..., model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class UserQuestion(_message.Message):
    __slots__ = ("user_id", "user_key", "k", "exclude", "candidates", "ratings")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_KEY_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    RATINGS_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    user_key: str
    k: int
    exclude: Ids
    candidates: Ids
    ratings: Ratings
    def __init__(self, user_id: _Optional[int] = ..., user_key: _Optional[str] = ..., k: _Optional[int] = ..., exclude: _Optional[_Union[Ids, _Mapping]] = ..., candidates: _Optional[_Union[Ids, _Mapping]] = ..., ratings: _Optional[_Union[Ratings, _Mapping]] = ...) -> None: ...

class Ids(_message.Message):
    __slots__ = ("numbers", "text")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    text: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, numbers: _Optional[_Iterable[int]] = ..., text: _Optional[_Iterable[str]] = ...) -> None: ...

class Ratings(_message.Message):
    __slots__ = ("items", "values")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    items: Ids
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, items: _Optional[_Union[Ids, _Mapping]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[UserResult]
    def __init__(self, results: _Optional[_Iterable[_Union[UserResult, _Mapping]]] = ...) -> None: ...

class UserResult(_message.Message):
    __slots__ = ("items", "titles", "scores", "source", "model", "version", "arm", "prediction_id")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TITLES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    items: Ids
    titles: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    source: Source
    model: str
    version: int
    arm: str
    prediction_id: str
    def __init__(self, items: _Optional[_Union[Ids, _Mapping]] = ..., titles: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., source: _Optional[_Union[Source, str]] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., arm: _Optional[str] = ..., prediction_id: _Optional[str] = ...) -> None: ...
