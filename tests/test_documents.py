"""What the documents say is so: commands, snippets, options, lists, versions, and the bundled model's card."""

from __future__ import annotations

import argparse
import ast
import configparser
import inspect
import math
import re
import runpy
import shlex
import sys
import warnings
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from scripts import load_script
from tiny_models import build_tiny_pipeline, make_adapter

import rtjazz_hf
from rtjazz_hf import cli, hub
from rtjazz_hf.music import GENRES, INSTRUMENTS, MOODS, parse_chart
from rtjazz_hf.music.score_features import SCORE_DIM

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHARTS = (ROOT / "docs" / "charts.md").read_text(encoding="utf-8")
CARD = ROOT / "model_cards" / "rtjazz-mini.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("training/*.md")),
    CARD,
]
WITH_SNIPPETS = [
    "README.md", "docs/live.md", "docs/charts.md", "docs/adapters.md", "docs/codec.md", "docs/band.md",
    "docs/habits.md",
]  # fmt: skip
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[.*\])?([<>=!~,.\d ]*)")


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def name_of(requirement: str) -> str:
    """Name of a requirement's distribution, as package indices write it."""
    return re.sub(r"[-_.]+", "-", REQUIREMENT.match(requirement).group(1)).lower()


def requirements() -> dict[str, list[str]]:
    """Requirements by extra; "" for what is always installed."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {name: text.split("\n")[1:] for name, text in extras.items()}


class TestCommands:
    def test_readme_begins_with_two_of_one_line(self):
        lines = [line for line in code_blocks(README, "bash")[0].splitlines() if line and line[0] != "#"]
        assert len(lines) == 2
        setup = "python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt "
        assert all(line.startswith(setup) for line in lines)
        assert lines[1].endswith(" && python -m pytest -n 2")
        play = shlex.split(lines[0].split(" && ")[-1])
        assert play[0] == "rtjazz"
        assert cli.build_parser().parse_args(play[1:]).prompt == "Bill Evans modal jazz"

    def test_ci_finds_the_test_command(self):
        pattern = re.search(r"grep -E '(.*)' README.md", (ROOT / ".ci" / "run").read_text()).group(1)
        assert len(re.findall(pattern, README, re.MULTILINE)) == 1

    def test_options_are_those_of_the_parser(self):
        commands = next(
            action for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
        )
        known = {
            option for option in commands.choices["generate"]._option_string_actions if option[:2] == "--"
        }
        section = CHARTS[CHARTS.index("## Options of `rtjazz generate`") :]
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        listed = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", " ".join(rows)))
        assert listed == known - {"--help", "--output"}  # -o and --help are in the text

    @pytest.mark.parametrize(("document", "count"), [("training/README.md", 33)])
    def test_scripts_have_the_options(self, document, count):
        blocks = code_blocks((ROOT / document).read_text(encoding="utf-8"), "bash")
        text = "\n".join(blocks).replace("\\\n", " ")
        text = text.replace("$LAUNCH ", "accelerate launch ")  # one of the launches of a recipe
        commands = re.findall(r"^(?:python|accelerate launch) (\w+/\w+\.py)(.*)$", text, re.MULTILINE)
        assert len(commands) == count
        for config in re.findall(r"--config_file ([^\s\"]+)", text):
            assert (ROOT / config).is_file(), config
        homes = [*(ROOT / "src" / "rtjazz_hf" / "trainers").glob("*.py")]
        shared = "".join(home.read_text(encoding="utf-8") for home in homes)
        for script, arguments in commands:
            source = (ROOT / script).read_text(encoding="utf-8")
            for option in re.findall(r"--[a-z-]+", arguments):
                field = rf"^    {option[2:].replace('-', '_')}: "  # an option of every setting: parse_config
                known = f'"{option}"' in source or re.search(field, source + shared, re.MULTILINE)
                assert known or (option == "--config" and "parse_config" in source), f"{script} {option}"

    def test_lists_are_those_of_the_vocabulary(self):
        for name, words in {"Instruments": INSTRUMENTS, "Genres": GENRES, "Moods": MOODS}.items():
            written = re.search(rf"{name}: ([\w,\s]+)\.", CHARTS).group(1)
            assert tuple(re.split(r",\s+", written)) == words

    def test_charts_parse(self):
        table = CHARTS[CHARTS.index("## Chord charts") : CHARTS.index("## To practise")].replace("\\|", "|")
        charts = re.findall(r"^\| (`.*`) \| ", table, re.MULTILINE)
        charts = [chart for cell in charts for chart in re.findall(r"`([^`]+)`", cell)]
        jumps = [chart for chart in charts if re.match(r"D\.|To |Fine|\[(Coda|Segno)", chart)]
        header = [chart for chart in charts if re.match(r"[a-z ]+:( |$)", chart)]
        assert (len(jumps), len(header), len(charts)) == (7, 11, 51)
        for line in (line for line in header if not line.endswith(":") and "german" not in line):
            assert parse_chart("\n".join([line, *["C | F | G | C"] * 4])).bars
        whole = [chart for chart in charts if chart not in (*jumps, *header)]
        for chart in (f"|: C {chart}" if chart[0] == ":" else chart for chart in whole):
            assert parse_chart(chart).bars
        chords = re.findall(r"`([A-G][^`|]*)`", table[table.index("Chords as jazz charts") :])
        assert len(chords) == 14
        parse_chart(" | ".join(chords))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a Markdown page may end in, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a parser and of the commands under it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options_of(each) for each in action.choices.values()))
    return found


def messages() -> list[str]:
    """Every piece of text in the package, its scripts and converters, places to fill in left out."""
    pieces = []
    for folder in ("src", "training", "conversion"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    pieces.append(node.value)
    return pieces


class TestPages:
    def test_readme_is_short_and_leads_to_every_page(self):
        assert len(README.encode()) <= 12_000
        linked = set(re.findall(r"\]\(([^)#\s]+)", README))
        assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked

    def test_nothing_is_said_twice(self):
        """No paragraph, list item, row or block of code of some length stands on two pages."""
        home: dict[str, Path] = {}
        for page in set(PAGES) - {ROOT / "CHANGELOG.md", CARD}:
            text = page.read_text(encoding="utf-8")
            for piece in re.split(r"\n\n|\n(?=[-|] )|\n(?=\|)", text):
                said = " ".join(piece.split())
                if len(said) > 120:
                    assert home.setdefault(said, page) == page, (
                        f"{page.name} and {home[said].name}: {said[:80]}"
                    )

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_links_lead_somewhere(self, page):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("https://", "http://")):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_commands_exist_and_have_the_options(self, page):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        code = [*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
        commands = next(
            action for action in cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
        )
        for name, arguments in re.findall(r"^rtjazz ([a-z]+)(.*)$", "\n".join(code), re.MULTILINE):
            assert name in commands.choices, name
            arguments = arguments.split(" #")[0]
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", arguments):
                assert option in options_of(commands.choices[name]), f"rtjazz {name} {option}"

    def test_quoted_messages_are_in_the_code(self):
        text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
        known = messages()
        quoted = [
            quote
            for row in re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
            for quote in re.findall(r"`([^`]+)`", row)
            if " " in quote and not quote.startswith("rtjazz ")
        ]
        assert len(quoted) > 30
        assert not [quote for quote in quoted if not any(quote in message for message in known)]


class TestReference:
    """The API reference, by docs/README.md's command."""

    def test_public_names_have_docstrings(self):
        for name in set(rtjazz_hf.__all__) - {"__version__"}:
            home = getattr(rtjazz_hf, name)
            assert home.__doc__ and not home.__doc__.startswith(f"{name}("), (
                name
            )  # a dataclass writes that itself
            for member, value in vars(home).items():
                if inspect.isfunction(value) and member[0] != "_" and value.__qualname__.startswith(name):
                    assert inspect.getdoc(getattr(home, member)), f"{name}.{member}"

    def test_every_public_name_has_its_place(self, tmp_path):
        pdoc = pytest.importorskip("pdoc")
        command = code_blocks((ROOT / "docs" / "README.md").read_text(encoding="utf-8"), "bash")[
            0
        ].splitlines()[-1]
        script = runpy.run_path(str(ROOT / command.removeprefix("python ")))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a public name that is not there
            for name in script["MODULES"]:
                module = script["load"](name)
                assert module.__doc__, name
                public = set(getattr(module, "__all__", ())) - {"__version__"}
                assert public <= set(pdoc.doc.Module(module).members), name
        # all of them take a while: what is inherited is large
        script["main"](tmp_path, ("rtjazz_hf.runtime.quantization",))
        page = (tmp_path / "rtjazz_hf" / "runtime" / "quantization.html").read_text(encoding="utf-8")
        assert 'id="quantize"' in page


class TestSnippets:
    """Every Python block runs as it stands, with a tiny model in the place of the bundled one."""

    @pytest.mark.parametrize("page", WITH_SNIPPETS)
    def test_page(self, page, tiny_folder, tmp_path, monkeypatch):
        if page == "docs/band.md":  # of a model that is told notes
            tiny_folder = tmp_path / "told"
            build_tiny_pipeline(score_dim=SCORE_DIM).save_pretrained(tiny_folder)
        monkeypatch.chdir(tmp_path)
        make_adapter(tmp_path / "my-style", 1, style_name="Anna Blue")
        make_adapter(tmp_path / "your-style", 2)
        names: dict = {}
        for block in code_blocks((ROOT / page).read_text(encoding="utf-8"), "python"):
            block = block.replace('bundled_folder("rtjazz-mini")', '"rtjazz-mini"')
            exec(compile(block.replace('"rtjazz-mini"', repr(str(tiny_folder))), page, "exec"), names)
        if page == "README.md":
            assert (tmp_path / "trio.wav").stat().st_size > 10 * 48_000 * 4
        elif page == "docs/live.md":
            assert names["session"].lead_sheet.tempo == 126

    def test_no_page_is_forgotten(self):
        texts = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in PAGES}
        pages = {str(page) for page, text in texts.items() if code_blocks(text, "python")}
        assert {page for page in pages if not page.startswith(("training", "model_cards"))} == set(
            WITH_SNIPPETS
        )

    def test_examples(self, tiny_folder, tmp_path, monkeypatch):
        def play(script: str, *arguments: str) -> None:
            monkeypatch.setattr(sys, "argv", [script, *arguments, "--model", str(tiny_folder)])
            runpy.run_path(str(ROOT / "pipelines" / "examples" / script), run_name="__main__")

        clip, session, received = (str(tmp_path / f"{name}.wav") for name in ("clip", "session", "received"))
        play("whole_clip.py", "--out", clip, "--seconds", "1")
        play("live_updates.py", "--out", session, "--seconds", "13")  # past all updates
        play("codec_round_trip.py", clip, "--out", received, "--levels", "2")
        assert Path(received).stat().st_size == Path(clip).stat().st_size
        assert {file.name for file in (ROOT / "pipelines" / "examples").glob("*.py")} == {
            "whole_clip.py", "live_updates.py", "codec_round_trip.py",
            "onnx_stream.py",  # tests/conversion/test_export_onnx.py
        }  # fmt: skip


class TestVersions:
    def test_constraints_pin_what_the_extras_of_the_tests_want(self):
        from packaging.specifiers import SpecifierSet

        lines = (ROOT / "constraints.txt").read_text().splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        wanted = requirements()
        for requirement in [
            line for extra in ("", "corpus", "eval", "train", "scores", "notes", "dev") for line in wanted[extra]
        ]:
            if name_of(requirement) != "rtjazz-hf":
                allowed = SpecifierSet(REQUIREMENT.match(requirement).group(2))
                assert pins[name_of(requirement)] in allowed, requirement

    def test_every_import_is_required(self):
        wanted = requirements()
        named = {
            name_of(line)
            for extra in (
                "", "corpus", "scale", "eval", "train", "live", "charts", "scores", "notes", "link", "serve", "opus",
                "fast", "quant",
            )
            for line in wanted[extra]
        }
        named.add("basic-pitch")  # see the extra "notes"
        provides = packages_distributions()
        for file in (ROOT / "src").rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                else:
                    modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                for module in (
                    {name.split(".")[0] for name in modules} - sys.stdlib_module_names - {"rtjazz_hf"}
                ):
                    distributions = {name_of(name) for name in provides.get(module, [module])}
                    assert distributions & named, (
                        f"{file.name} imports {module}, which setup.cfg does not name"
                    )


class TestModelCard:
    def test_front_matter(self):
        from huggingface_hub import ModelCard

        data = ModelCard(CARD.read_text(encoding="utf-8")).data
        assert (data.license, data.library_name, data.pipeline_tag) == (
            "apache-2.0", "diffusers", "text-to-audio",
        )  # fmt: skip

    def test_its_samples_are_clips_of_the_listening_page(self):
        from huggingface_hub import ModelCard

        clips = {clip.name: clip for clip in load_script("make_clips", "docs/listen").CLIPS}
        data = ModelCard(CARD.read_text(encoding="utf-8")).data
        assert data.language == "en" and len(data.widget) == 5
        for entry in data.widget:
            name = re.fullmatch(r"clips/(.+)\.ogg", entry["output"]["url"]).group(1)
            assert entry["text"] == clips[name].prompt

    def test_parameters_are_those_of_the_weights(self):
        from safetensors import safe_open

        text = CARD.read_text(encoding="utf-8")
        for part, name in hub.COMPONENTS.items():
            weights = hub.bundled_folder("rtjazz-mini") / part / "model.safetensors"
            if not weights.is_file():
                continue
            with safe_open(weights, "pt") as file:
                count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
            assert f"| `{name}` | {count / 1e6:.2f} M |" in text, f"{part}: {count / 1e6:.2f} M"

    def test_bundled_folder_holds_a_copy(self):
        copy = hub.bundled_folder("rtjazz-mini") / "README.md"
        assert copy.read_text(encoding="utf-8") == CARD.read_text(encoding="utf-8"), (
            f"the card has one home, model_cards/: cp model_cards/{CARD.name} {copy.relative_to(ROOT)}"
        )

    @pytest.mark.parametrize("place", ["<!-- figures -->", "{{"])
    def test_no_place_is_left_empty(self, place):
        assert place not in CARD.read_text(encoding="utf-8") and place not in README
