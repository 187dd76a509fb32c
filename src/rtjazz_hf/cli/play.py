"""`rtjazz play`: endless music through the sound card, into a pipe or a file, changed by keys while it plays."""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .adapters import add_adapters, check_adapters, load_adapters
from .charts import practise, tell
from .common import (
    MAX_SEED,
    Refused,
    add_command,
    add_engine,
    add_music,
    check_engine_options,
    check_sampling,
    leave_short_music_to_torch,
    load_pipeline,
    quiet_libraries,
)
from .notes import add_notes, check_notes, read_melody, telling_remarks
from .quick_imports import import_quickly

if TYPE_CHECKING:
    from ..live.clock import Clock

PIPE = "-"

_HELP = """\
Play without an end, or for --duration seconds, until q or Ctrl-C. In a terminal, keys change prompt, tempo, key, band
and adapter. A recording is a whole file at any time, whatever ends the program.

example:
  rtjazz play "medium swing quartet" --chords "Dm7 | G7 | Cmaj7 | %" --tempo 132 --instruments=-piano
  rtjazz play "0.6 hard bop + 0.4 bossa nova" --record evening.flac
  rtjazz play "bossa nova" --output - | ffplay -f s16le -ar 48000 -ch_layout stereo -i -
  rtjazz play "medium swing in the style of me" --adapter my-style/ --adapter me/late-nights=0.7
  rtjazz play "swing trio" --output take.wav --duration 60          # at real-time pace, no sound card
  rtjazz play "hard bop" --follow "Drum Machine" --clock-offset -8   # in time with a MIDI clock
  rtjazz play "hard bop" --follow link --lead "Synth" --count-in 1
  rtjazz play "ballad with tenor sax" --chords "Cmaj7 | Am7 | Dm7 | G7" --melody tune.mid --midi evening.mid
  rtjazz play "swing trio" --chords-from "Keyboard"                   # held notes become the chord
"""


def add_play(commands: Any) -> None:
    seed_help = "whole number; drawn and printed when not given"
    parser = add_command(commands, "play", _HELP, run_play, seed_help)
    parser.add_argument("prompt", nargs="?", help='words, or a mix such as "0.7 hard bop + 0.3 bossa nova"')
    music = parser.add_argument_group("music")
    add_music(music)
    add_notes(music)
    music.add_argument("--chords-from", metavar="PORT", help="MIDI keyboard whose held notes become the chord")
    add_adapters(music, "the key a goes round them")
    music.add_argument("--steps", type=int, help="steps a block (default: the model's)")
    music.add_argument("--guidance", type=float, help="guidance scale, 1 for none (default: the model's)")
    music.add_argument(
        "--block-frames", type=int, metavar="N", help="6, 12, 24, 36 or 48 (default: the model's)"
    )
    music.add_argument(
        "--ramp", metavar="120:180/4", help="tempo of a chart, up or down by 5 every 4 choruses; +2 after it: by 2"
    )
    music.add_argument("--duration", type=float, help="seconds (default: without an end)")
    music.add_argument("--count-in", type=int, default=0, metavar="BARS", help="clicks before bar 1, 0 to 8")
    sound = parser.add_argument_group("sound")
    sound.add_argument(
        "--output", metavar="WHERE", help='"-" for PCM on stdout, or out.wav, out.flac, out.ogg at real-time pace'
        " (default: the sound card)",
    )  # fmt: skip
    sound.add_argument("--pcm", choices=("s16le", "f32le"), default="s16le",
                       help="of --output -: 48 kHz, left and right in turn (default: %(default)s)")  # fmt: skip
    sound.add_argument("--record", type=Path, metavar="FILE", help="write wav, flac or ogg too")
    sound.add_argument("--midi", type=Path, metavar="FILE.mid", help="write the notes that were told too, at the end")
    sound.add_argument("--overwrite", action="store_true", help="replace files that exist")
    sound.add_argument("--sound-card", metavar="NAME", help="name or number (default: the system's)")
    sound.add_argument("--buffer", type=float, default=0.4, metavar="SECONDS",
                       help="of sound in hand while a block is made (default: %(default)s)")  # fmt: skip
    sound.add_argument("--loudness", type=float, metavar="LUFS",
                       help="-40 to -8, peaks under -1 dBTP (default: as it is played)")  # fmt: skip
    sound.add_argument(
        "--list-devices", action="store_true", help="show sound cards and MIDI ports, and leave"
    )
    sound.add_argument("--no-display", action="store_true", help="no picture and no keys")
    add_engine(parser)
    clock = parser.add_argument_group("clock")
    clock.add_argument(
        "--follow", metavar="PORT", help="MIDI input with a clock to play in time with, or link"
    )
    clock.add_argument(
        "--start-stop", action="store_true", help="with --follow link: obey the peers' start and stop too"
    )
    clock.add_argument("--lead", metavar="PORT", help="MIDI output to send a clock to")
    clock.add_argument("--clock-offset", type=float, default=0.0, metavar="MS",
                       help="play (or, leading, send) so much later; negative: sooner (default: 0)")  # fmt: skip


def run_play(args: argparse.Namespace, sound_api: Any = None, midi: Any = None) -> int:
    """Play.

    Args:
        sound_api: what stands in for the module `sounddevice`. midi: for `mido`.
    """
    if args.list_devices:
        return _list_devices(sound_api, midi)
    practise(args)
    _check_ramp(args)
    running_first = import_quickly(_running_first)

    told: list[str] = []  # what there is to tell once it plays
    with ExitStack() as stack:
        try:
            prompt = _check(args)
            stack.enter_context(running_first(told.append))  # before there are other threads
            recorder, output = _open_outputs(args, sound_api, stack)
            clock, follower, leader = _open_clocks(args, midi, stack)
            chord_keys = _open_keyboard(args, midi, stack)
            rider = None if args.loudness is None else _rider(args.loudness)
        except (ValueError, OSError, ImportError) as error:
            raise Refused(str(error)) from error
        seed = secrets.randbelow(MAX_SEED + 1) if args.seed is None else args.seed
        leave_short_music_to_torch(args, math.inf if args.duration is None else args.duration)
        pipe = load_pipeline(args, quickly=True)
        check_notes(args, pipe, ("melody", "midi"))
        stack.enter_context(telling_remarks())
        try:
            adapters = load_adapters(pipe, args)
            session = stack.enter_context(
                pipe.live(
                    prompt, chords=args.chords, tempo=args.tempo, key=args.key, mood=args.mood,
                    instruments=args.instruments, block_frames=args.block_frames, num_inference_steps=args.steps,
                    guidance_scale=args.guidance, seed=seed, melody=args.melody, parts=args.parts,
                    adapter=dict(list(adapters.items())[:1]),
                )
            )  # fmt: skip
        except ValueError as error:
            output.close(drain=False)
            raise Refused(str(error)) from error

        if follower is not None:
            follower.count_in = args.count_in * session.lead_sheet.metre_of(0).beats
            if getattr(clock, "num_peers", None) == 0:  # alone in a Link session: the tempo is the band's
                clock.tempo = session.lead_sheet.tempo

        from ..live.note_log import NoteLog
        from ..live.playback import Player

        log = NoteLog() if args.midi else None

        player = Player(
            session, output, recorder=recorder, follower=follower, leader=leader, chord_keys=chord_keys, rider=rider,
            count_in=args.count_in, duration=args.duration, say=_say,
            on_block=_each_block(_ramp(args, session), log and log.add),
        )  # fmt: skip
        for text in told:
            _say(text)
        code = _play(args, player, prompt, clock, adapters)
        if log is not None:
            log.score().to_midi(args.midi, overwrite=args.overwrite)
        result = _result(args, player, seed)
        _say(_summary(result))
        if args.json:
            print(json.dumps(result))
        return code


def _running_first() -> Any:
    quiet_libraries()  # before they are imported: all that is live brings them along
    from ..live.priority import running_first

    return running_first


def _check_ramp(args: argparse.Namespace) -> None:
    if args.ramp is None:
        return
    from ..music.practice import Ramp

    if args.chords is None:
        raise Refused("--ramp counts choruses: give --chart or --chords")
    if args.follow is not None or args.tempo is not None:
        raise Refused("--ramp sets the tempo: leave --tempo and --follow out")
    try:
        args.tempo = Ramp.parse(args.ramp).first
    except ValueError as error:
        raise Refused(str(error)) from error


def _ramp(args: argparse.Namespace, session: Any) -> Any:
    """What changes the tempo from block to block as --ramp asks, or nothing."""
    if args.ramp is None:
        return None
    from ..charts import sent_text
    from ..music import parse_chart
    from ..music.practice import Ramp

    ramp, chorus = Ramp.parse(args.ramp), parse_chart(sent_text(args.chords)).num_beats

    def after(block: Any) -> None:
        sheet = session.lead_sheet
        tempo = ramp.tempo(int(max(0.0, sheet.beat_at(session.position)) // chorus))
        if abs(tempo - sheet.tempo) > 1e-6:
            session.update(tempo=tempo)

    return after


def _each_block(*given: Any) -> Any:
    """One listener to the blocks for those that are given; None for none."""
    listeners = [each for each in given if each is not None]

    def tell_all(block: Any) -> None:
        for listener in listeners:
            listener(block)

    return tell_all if listeners else None


def _rider(lufs: float) -> Any:
    from ..live.rider import LoudnessRider

    return LoudnessRider(lufs)


def _play(
    args: argparse.Namespace, player: Any, prompt: Any, clock: Clock | None, adapters: dict[str, float]
) -> int:
    """Until it ends: the exit code. SIGTERM ends it as Ctrl-C does: what was played is told."""
    terminated = []

    def stop(*_: Any) -> NoReturn:
        terminated.append(True)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        with ExitStack() as stack:
            if not args.no_display and sys.stderr.isatty():
                _show(args, player, prompt, clock, adapters, stack)
            player.run()
    except KeyboardInterrupt:
        return 143 if terminated else 130
    return 0


def _show(
    args: argparse.Namespace, player: Any, prompt: Any, clock: Clock | None, adapters: dict[str, float],
    stack: ExitStack,
) -> None:  # fmt: skip
    from .play_screen import Controls, Screen, keys

    try:
        import rich  # noqa: F401
    except ImportError:
        _say("no display: it needs rich; run: pip install 'rtjazz-hf[live]'")
        return
    controls = Controls(
        player, prompt, chords=args.chords, instruments=args.instruments, adapters=adapters,
        set_tempo=None if clock is None else lambda tempo: _set_clock_tempo(clock, tempo),
    )  # fmt: skip
    player.say = lambda text: setattr(controls, "message", text)
    stack.enter_context(Screen(player, controls, title="rtjazz play"))
    if args.output != PIPE:
        stack.enter_context(keys(controls.press))


def _set_clock_tempo(clock: Any, tempo: float) -> None:
    from ..live.link import LinkClock
    from ..music.vocabulary import check_tempo

    if not isinstance(clock, LinkClock):
        raise ValueError("the tempo is the MIDI clock's; change it there")
    clock.tempo = check_tempo(tempo)


# -- before anything is loaded --------------------------------------------------------------------------------
def _check(args: argparse.Namespace) -> str | dict[str, float]:
    """The prompt as a mix; everything that can be refused without a model is refused here.

    Raises:
        ValueError, OSError: naming the option, its value and what is allowed.
    """
    from ..audio import check_output_path
    from ..band.band_leader import write_lead_sheet
    from ..prompts import BLOCK_SIZES, words_of
    from .play_screen import parse_mix

    if not (args.prompt or "").strip():
        raise ValueError("the prompt is empty; describe the music, such as 'medium swing piano trio'")
    prompt = parse_mix(args.prompt)
    if args.duration is not None and not (math.isfinite(args.duration) and args.duration > 0):
        raise ValueError(f"--duration {args.duration:g}: choose more than 0 seconds, or leave it out")
    if not 0 <= args.count_in <= 8:
        raise ValueError(f"--count-in {args.count_in}: choose 0 to 8 bars")
    if args.start_stop and (args.follow or "").lower() != "link":
        raise ValueError("--start-stop is for --follow link; a MIDI clock's start and stop are obeyed anyway")
    if not (math.isfinite(args.buffer) and 0.02 <= args.buffer <= 10):
        raise ValueError(f"--buffer {args.buffer:g}: choose 0.02 to 10 seconds")
    if not (math.isfinite(args.clock_offset) and abs(args.clock_offset) <= 10_000):
        raise ValueError(f"--clock-offset {args.clock_offset:g}: choose -10000 to 10000 milliseconds")
    if args.block_frames is not None and args.block_frames not in BLOCK_SIZES:
        raise ValueError(
            f"--block-frames {args.block_frames}: choose from {', '.join(map(str, BLOCK_SIZES))}"
        )
    check_sampling(args)
    check_engine_options(args)
    check_adapters(args)
    if args.midi is not None:
        check_output_path(args.midi, (".mid", ".midi"), args.overwrite)
        if args.parts == "free" and args.melody is None:
            raise ValueError("--midi wants notes, and --parts free tells none: leave one of them out")
    read_melody(args)
    if args.output == PIPE and args.json:
        raise ValueError("--output - and --json both want stdout: choose one")
    if args.output not in (None, PIPE) and args.record is not None:
        raise ValueError(f"--output {args.output} is a recording already: leave --record out")
    if args.output is not None and args.sound_card is not None:
        raise ValueError(
            "--output and --sound-card: the sound goes to one of them; --record writes a file too"
        )
    write_lead_sheet(
        words_of(prompt), chords=args.chords, tempo=args.tempo, key=args.key, mood=args.mood,
        instruments=args.instruments,
    )  # fmt: skip
    tell(words_of(prompt), args.chords)
    return prompt


def _open_outputs(args: argparse.Namespace, sound_api: Any, stack: ExitStack) -> tuple[Any, Any]:
    """Recorder or None, and where the sound goes."""
    from ..live.outputs import PacedOutput, PipeOutput, SoundCardOutput
    from ..live.recording import Recorder

    path = args.record if args.output in (None, PIPE) else Path(args.output)
    if args.output == PIPE and getattr(sys.stdout, "name", None) == os.devnull:
        raise ValueError(
            "--output -: standard output is closed; lead it into a pipe or a file, or give a file's name"
        )
    recorder = None if path is None else stack.enter_context(Recorder(path, overwrite=args.overwrite))
    if args.output == PIPE:
        return recorder, PipeOutput(sys.stdout.buffer, args.pcm)
    if args.output is not None:
        return recorder, PacedOutput(buffer=args.buffer)
    card = args.sound_card
    card = int(card) if card is not None and card.isdigit() else card
    try:
        output = SoundCardOutput(card, buffer=args.buffer, api=sound_api)
    except (OSError, ImportError) as error:
        if recorder is None:
            raise OSError(
                f"{error}; or give --output out.wav (a file at real-time pace) or --output - (a pipe)"
            ) from error
        if card is not None:
            raise
        _say(f"{error}; recording into {recorder.path} at real-time pace")
        return recorder, PacedOutput(buffer=args.buffer)
    stack.callback(output.close, drain=False)
    return recorder, output


def _open_clocks(args: argparse.Namespace, midi: Any, stack: ExitStack) -> tuple[Any, Any, Any]:
    """The clock that is followed, who follows it, and who leads; each may be None."""
    from ..live.clock import ClockFollower, ClockLeader, MidiClock
    from ..live.link import LinkClock
    from ..live.midi_ports import MidiInput, open_midi_output

    clock = follower = leader = None
    offset = args.clock_offset / 1000.0
    if args.follow is not None:
        if args.follow.lower() == "link":
            clock = LinkClock(args.tempo or 120.0, start_stop=args.start_stop)
            stack.callback(clock.close)
        else:
            clock = MidiClock()
            stack.callback(MidiInput(args.follow, clock, midi).close)
        follower = ClockFollower(clock, offset)
    if args.lead is not None:
        port = open_midi_output(args.lead, midi)
        stack.callback(port.close)
        leader = ClockLeader(port.send, offset)
    return clock, follower, leader


def _open_keyboard(args: argparse.Namespace, midi: Any, stack: ExitStack) -> Any:
    """The keyboard whose chords are played, or None."""
    from ..live.chord_keys import ChordKeys
    from ..live.midi_ports import MidiInput

    if args.chords_from is None:
        return None
    keys = ChordKeys()
    stack.callback(MidiInput(args.chords_from, keys, midi).close)
    return keys


def _list_devices(sound_api: Any, midi: Any) -> int:
    from ..live.midi_ports import port_names
    from ..live.outputs import import_sounddevice, output_devices

    def cards() -> list[str]:
        return output_devices(import_sounddevice() if sound_api is None else sound_api)

    for title, names in (
        ("sound cards", cards),
        ("MIDI inputs (--follow, --chords-from)", lambda: port_names("input", midi)),
        ("MIDI outputs (--lead)", lambda: port_names("output", midi)),
    ):
        try:
            found = names() or ["none"]
        except (OSError, ImportError) as error:
            found = [f"none: {error}"]
        print(f"{title}:", *(f"  {name}" for name in found), sep="\n")
    return 0


# -- afterwards ------------------------------------------------------------------------------------------------
def _result(args: argparse.Namespace, player: Any, seed: int) -> dict[str, Any]:
    from ..audio import SAMPLE_RATE

    stats, sheet = player.session.stats(), player.session.lead_sheet
    return {
        "model": str(args.model),
        "prompt": args.prompt,
        "seed": seed,
        "output": args.output or "sound card",
        "melody": str(args.melody_file) if args.melody_file else None,
        "midi": str(args.midi) if args.midi else None,
        "recording": str(player.recorder.path) if player.recorder and player.recorder.samples else None,
        "duration": player.samples / SAMPLE_RATE,
        "real_time_factor": round(stats.real_time_factor, 4) if stats.blocks else None,
        "under_runs": player.under_runs,
        "tempo": sheet.tempo,
        "key": sheet.key,
        "chart": sheet.to_text(),
    }


def _summary(result: dict[str, Any]) -> str:
    recording = f", recorded in {result['recording']}" if result["recording"] else ""
    factor = (
        "" if result["real_time_factor"] is None else f", real-time factor {result['real_time_factor']:.2f}"
    )
    return (
        f"played {result['duration']:.2f} s{recording}{factor}, {result['under_runs']} under-runs, "
        f"seed {result['seed']}"
    )


def _say(text: str) -> None:
    print(f"rtjazz: {text}", file=sys.stderr, flush=True)
