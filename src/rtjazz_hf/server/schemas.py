"""What may be sent to the server, and what it says; the OpenAPI document is made of this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from ..adapters import MAX_STRENGTH
from ..band.band_leader import told
from ..charts import sent_text
from ..prompts import MAX_DURATION, MAX_GUIDANCE_SCALE, words_of
from .settings import MAX_STATE_BYTES

MAX_SEED = 2**53 - 1  # what JavaScript can count to
MAX_MELODY_CHARACTERS = 48 * 1024  # of base64: 36 kB, of which a tune takes one or two
MAX_STEPS = 32  # of a block of a clip: a request may not hold the machine for minutes a block

# Names are folders of the adapters' folder and files of the state's: nothing that could lead out of them.
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
SessionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Strength = Annotated[float, Field(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
Words = Annotated[str, Field(min_length=1, max_length=2000)]
PromptMix = Annotated[dict[Words, Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=1, max_length=8)]
AdapterMix = Annotated[dict[AdapterName, Strength], Field(max_length=8)]


# A chart, or what holds one as text; it becomes the former, and a file's name opens nothing.
Chart = Annotated[str, Field(max_length=40_000), AfterValidator(sent_text)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Music(_Message):
    """What is to be played. What is left out follows from the prompt."""

    prompt: Words | PromptMix | None = Field(
        None, description="Words, or a mix of them and their weights", examples=["medium swing piano trio"]
    )
    chords: Chart | None = Field(
        None,
        description="Chord chart, iReal Pro link or ChordPro; files go to /v1/charts",
        examples=["Dm7 | G7 | Cmaj7 | %"],
    )
    tempo: float | None = Field(None, ge=40, le=320, description="Beats per minute")
    key: str | None = Field(None, max_length=16, examples=["Bb", "Am"])
    mood: str | None = Field(None, max_length=64, examples=["relaxed"])
    instruments: list[Annotated[str, Field(max_length=64)]] | None = Field(
        None,
        max_length=32,
        description='The band; "-piano" leaves the piano out',
        examples=[["piano", "bass"]],
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    adapter: AdapterName | AdapterMix | None = Field(
        None, description="A personal style by its name, or several and their strengths; none by default"
    )
    adapter_scale: Strength | None = None
    melody: Annotated[str, Field(min_length=1, max_length=MAX_MELODY_CHARACTERS)] | None = Field(
        None, description="A tune to play: a MIDI file, as base64; null is none"
    )
    parts: Literal["band", "free"] | None = Field(
        None, description="band: a band writes everybody's notes; free: none are told but the melody's"
    )


class ClipRequest(Music):
    """A clip of a known length."""

    prompt: Words | PromptMix = Field(
        description="Words, or a mix of them and their weights", examples=["medium swing piano trio"]
    )
    duration: float = Field(10.0, gt=0, le=MAX_DURATION, description="Seconds")
    format: Literal["wav", "flac", "ogg", "opus", "mid"] = Field(
        "wav",
        description="wav and flac have 16 bits; ogg is Vorbis, opus is Opus in Ogg; mid is the notes that the same "
        "request with the same seed plays, as a MIDI file",
    )
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE_SCALE)


class Start(Music):
    """The first message of a live session."""

    type: Literal["start"] = "start"
    session: SessionName | None = Field(None, description="A name of one's own; drawn by default")
    resume: SessionName | None = Field(
        None,
        description="The token of a session that the server's stop had ended; then nothing else is given",
    )
    midi: bool = Field(False, description="Whether the blocks' messages tell their notes")
    state: int | None = Field(
        None,
        ge=1,
        le=MAX_STATE_BYTES,
        description="Bytes of a state that follow, in binary messages: the session goes on from it, as with resume",
    )
    state_every: float | None = Field(
        None,
        ge=5,
        le=600,
        description="Seconds between states of the session that are sent to its listener; none by default",
    )
    encoding: Literal["f32", "s16", "opus"] = Field(
        "f32",
        description="Samples: float32 or int16, little-endian; or Opus packets of 20 ms, one after another, whose "
        "sizes stand in the block's message as packets",
    )


class Update(Music):
    """A change; from the next block on that has not begun, another chart from the next bar line on.
    `"adapter": null` is none."""

    type: Literal["update"]
    at: Literal["bar", "now"] | None = Field(
        None,
        description="Begins at the next bar line, or the next block; by default another chart waits for the line",
    )


class Stop(_Message):
    """The end of the session."""

    type: Literal["stop"]


STARTS: TypeAdapter[Start] = TypeAdapter(Start)
CONTROLS: TypeAdapter[Update | Stop] = TypeAdapter(Annotated[Update | Stop, Field(discriminator="type")])


def not_played(music: Music) -> list[str]:
    """What the words and the chart ask for and nobody plays."""
    return list(told(words_of(music.prompt) if music.prompt else "", music.chords))


class ReadChart(BaseModel):
    """What was read of a file of chords."""

    tunes: list[str] = Field(description="Titles of all that the file holds")
    title: str
    composer: str
    style: str
    key: str | None
    tempo: float | None
    bars: int = Field(description="As they are played, repeats and jumps written out")
    chart: str = Field(description="The tune as text, to be sent as `chords`")
    remarks: list[str] = Field(description="What is in the file and is not played")


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class ModelInfo(BaseModel):
    """The model that is served, and what it can be asked for."""

    name: str
    parameters: int
    sampling_rate: int
    block_seconds: float
    num_inference_steps: int
    guidance_scale: float
    adapters: list[str]
    encodings: list[str]
    instruments: list[str]
    genres: list[str]
    moods: list[str]
    reads_notes: bool = Field(description="Whether melodies, parts and notes can be asked for")


class ModelList(BaseModel):
    models: list[ModelInfo]


class Health(BaseModel):
    """Whether the server answers, or can play."""

    status: str
    detail: str | None = None


def wishes(music: Music) -> dict:
    """What the pipeline is asked for: the fields of the message that were given and are the music's."""
    own = set(Music.model_fields)
    return {name: value for name, value in music.model_dump(exclude_unset=True).items() if name in own}


def first_error(error: Exception) -> str:
    """What pydantic found wrong, in a line that does not repeat what was sent."""
    errors = error.errors()
    first = errors[0]
    place = ".".join(str(part)[:40] for part in first.get("loc", ())) or "the message"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg'][:300]}{more}"
