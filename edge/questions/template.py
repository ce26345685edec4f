"""Chat templates: code that comes with a download, rendered as in transformers, in a bounded sandbox.

A template has at most SECONDS and HEADROOM_BYTES for one text. It sees what transformers 4.57.6 gives to
templates: its tags, filters and functions, `messages`, `tools`, `documents`, `add_generation_prompt` and the
special tokens.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Protocol

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.errors import UserError

SECONDS = 5.0  # of one rendering; real templates take a millisecond
HEADROOM_BYTES = 512 << 20  # address space of one rendering, beside what the process has
LONGEST_TEXT = 1 << 24  # characters that a template may write around a question
LONGEST_PRODUCT = 1 << 20  # characters, entries or bits that a product or a power may have
# A question that no template names: what stands around it is the template's own text.
PROBE = "Why does 4179 come before 60253?"
COMPILED = "<template>"  # Jinja's name for the code of a template that was given as text
MEND = "use --prompt raw, or mend it and build again"

# Errors that a template's code can raise: templates come with downloads and are not trusted.
TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class QuestionTemplate(Protocol):
    """Text around a question."""

    @property
    def pieces(self) -> Sequence[str]:
        """The parts of the text without the question, which stands between each two of them."""

    @property
    def adds_special(self) -> bool:
        """Whether the tokenizer adds its own special tokens, because the template writes none."""

    def render(self, question: str) -> str:
        """The text with the question; raises UserError when the template fails."""


class FixedTemplate(NamedTuple):
    """The same text around every question; `trims` removes white space around the question."""

    pieces: Sequence[str]
    adds_special: bool = True
    trims: bool = False

    def render(self, question: str) -> str:
        return (question.strip() if self.trims else question).join(self.pieces)


class ChatTemplate:
    """A compiled chat template, called `name` in errors, with the special tokens that it may name.

    A template that expects a message's content as a list of parts is given parts. Raises UserError when it
    fails, or when its text lacks the question either way.
    """

    adds_special = False  # a template writes its own

    def __init__(
        self,
        template: jinja2.Template,
        name: str,
        special: Mapping[str, str | list[str]],
        date: datetime.date,
    ) -> None:
        self._template, self._name, self._special, self._date = template, name, dict(special), date
        self._content: Callable[[str], object] = str
        self.pieces = self._probe()

    def _probe(self) -> Sequence[str]:
        failure: UserError | None = None
        written = ""
        for content in (str, as_parts):
            self._content = content
            try:
                text = self.render(PROBE)
            except UserError as error:
                failure = failure or error
                continue
            if has_question(text, PROBE):
                return text.split(PROBE)
            written = written or text
        if failure and not written:
            raise failure
        beginning = " ".join(written.split())[:40]
        raise UserError(
            f"{self._name} writes {beginning!r} without the question: use --prompt raw or qa, or put the "
            "model's own template there"
        )

    def render(self, question: str) -> str:
        """The text with the question; raises UserError when the template fails."""
        try:
            with bounded():
                text = self._template.render(
                    messages=[{"role": "user", "content": self._content(question)}],
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                    strftime_now=self._date.strftime,
                    **self._special,
                )
            if len(text) > LONGEST_TEXT + len(question):
                raise ValueError(f"it writes {len(text)} characters")
        except TEMPLATE_FAILURES as error:
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"the chat template fails ({detail}): {MEND}") from error
        return text


def as_parts(question: str) -> list[dict[str, str]]:
    """The content of a message as a list of parts, as templates of multimodal models expect it."""
    return [{"type": "text", "text": question}]


def has_question(text: str, question: str) -> bool:
    """Whether the text has the question, or the question in JSON; white space counts as none."""
    bare = "".join(text.split())
    return any(
        "".join(form.split()) in bare for form in (question, json.dumps(question, ensure_ascii=False)[1:-1])
    )


def read_template(path: Path) -> jinja2.Template:
    """The template of an artifact; raises UserError when it cannot be read or is none."""
    try:
        return compile_template(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): build the artifact again") from error


def compile_template(source: str, name: str) -> jinja2.Template:
    """Compiles in a sandbox, with the settings, tags and functions that transformers gives to templates.

    Raises UserError, which calls the template `name`, when the source is no template.
    """
    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        with bounded():
            return environment.from_string(source)
    except (*TEMPLATE_FAILURES, SyntaxError) as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} is not a valid template ({detail}): {MEND}") from error


def raise_exception(message: str) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON of a value; Jinja's own filter writes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class Generation(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks what the assistant wrote, and changes no text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("written"), [], [], body).set_lineno(line)

    def written(self, caller: Callable[[], str]) -> str:
        return caller()


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose products and powers stay small: one operation could take all memory or an hour."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            size = product_size(left, right)
        else:
            size = left.bit_length() * abs(right) if isinstance(left, int) and isinstance(right, int) else 0
        if size > LONGEST_PRODUCT:
            raise OverflowError(f"{operator} makes something of size {size}")
        return super().call_binop(context, operator, left, right)


def product_size(left: Any, right: Any) -> int:
    """Entries of a repeated text or list, bits of a product of integers, 0 for other products."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    for repeated, times in ((left, right), (right, left)):
        if isinstance(repeated, str | bytes | list | tuple) and isinstance(times, int):
            return len(repeated) * max(0, times)
    return 0


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A scope with SECONDS of time (else ValueError) and HEADROOM_BYTES of memory (else MemoryError).

    The time is looked at before each line of a template and each call of Python; what is between them
    cannot take long, since memory is limited. Both limits end with the scope. That of the time holds for
    this thread.
    """
    end = time.monotonic() + SECONDS

    def watch(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > end:
            raise ValueError(f"it takes longer than {SECONDS:.0f} s")
        return watch if frame.f_code.co_filename == COMPILED else None

    before = sys.gettrace()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    limits += [space + HEADROOM_BYTES] if (space := address_space()) else []
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min(limits, default=soft), hard))
        sys.settrace(watch)
        yield
    finally:
        sys.settrace(before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def address_space() -> int:
    """Bytes of this process's address space, 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()
