"""The form of a chart as it is written, and the order in which its bars are played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .metre import Metre
from .spans import ChordSpan

MAX_BARS = 512


@dataclass(frozen=True)
class Jump:
    """D.C. or D.S. after a bar.

    Attributes:
        to_sign: whether it goes back to the segno; else to the top.
        goal: "coda", "fine", "" (to the end, or to what the chart has of the two), or the number of an ending.
        repeats: whether repeats are taken again; by custom they are not.
        words: as written, for messages.
    """

    to_sign: bool
    goal: str = ""
    repeats: bool = False
    words: str = "D.C."


@dataclass
class WrittenBar:
    """A bar as it stands on paper; a reader fills it in.

    Attributes:
        spans: the chords, which fill `metre`.
        number: of the bar in its chart, from 1, for messages.
        label: the section that begins here.
        opens: a repeat begins here. closes: times that the repeat which ends here is played; 0 where none ends.
        endings: times round on which the ending that begins here is played.
        segno, coda: signs at the beginning of the bar. to_coda, fine: at its end. jump: after it.
        double: a double bar line follows.
        alternatives: chords in brackets, with the place among the bar's chords at which they stand.
    """

    spans: tuple[ChordSpan, ...]
    metre: Metre
    number: int
    label: str = ""
    opens: bool = False
    closes: int = 0
    endings: frozenset[int] = frozenset()
    segno: bool = False
    coda: bool = False
    to_coda: bool = False
    fine: bool = False
    jump: Jump | None = None
    double: bool = False
    alternatives: tuple[tuple[int, str], ...] = ()

    @property
    def is_plain(self) -> bool:
        signs = (self.segno, self.coda, self.to_coda, self.fine, self.jump)
        return not (self.opens or self.closes or self.endings or any(signs))


@dataclass
class _Ending:
    start: int
    end: int
    numbers: frozenset[int]
    group: list[_Ending] = field(default_factory=list, repr=False)
    late: list[_Ending] = field(
        default_factory=list, repr=False
    )  # endings of the group that stand further on

    @property
    def times(self) -> int:
        return max(max(each.numbers) for each in self.group)


def unfold(bars: Sequence[WrittenBar]) -> tuple[list[int], list[str]]:
    """The indices of `bars` in the order in which they are played, and remarks on what had to be understood.

    Repeats are played as often as they say, endings on their times round; after D.C. or D.S. repeats are not taken
    and the last ending is played, as is the custom; a coda without D.C. is played at the end of a second chorus.

    Raises:
        ValueError: a repeat, an ending or a jump that cannot be played, naming its bar, or more than `MAX_BARS` bars.
    """
    return _Player(bars).play()


def unbalanced(number: int, what: str) -> ValueError:
    return ValueError(
        f"unbalanced repeat at bar {number} of the chart: {what}. Write '|: Dm7 | G7 :|', "
        f"with endings '|: Dm7 |[1 G7 :|[2 Cmaj7 |'"
    )


class _Player:
    def __init__(self, bars: Sequence[WrittenBar]) -> None:
        self.bars = list(bars)
        self.remarks: list[str] = []
        self.late: set[int] = set()  # where endings begin that stand apart from their repeat
        self.endings = self._find_endings()
        self.inner = self._find_inner()
        self.leaving_last: int | None = None  # the end of a repeat that is left for the coda its last time
        self.coda = self._find_coda()
        self.jumps = self._find_jumps()

    # ------------------------------------------------------------------------------------------------------
    # what there is
    # ------------------------------------------------------------------------------------------------------
    def _find_endings(self) -> dict[int, _Ending]:
        """For each bar inside an ending, that ending; a repeat's endings, back to back, are one group."""
        found: dict[int, _Ending] = {}
        group: list[_Ending] = []
        late: list[_Ending] = []
        goals = {bar.jump.goal for bar in self.bars if bar.jump}
        index = 0
        while index < len(self.bars):
            if not self.bars[index].endings:
                index += 1
                continue
            end = index
            while not (self.bars[end].closes or self.bars[end].double or self.bars[end].jump):
                following = end + 1
                if following == len(self.bars):
                    break
                other = (
                    self.bars[following].endings - self.bars[index].endings
                )  # the same sign again says nothing new
                if other or self.bars[following].opens or self.bars[following].label:
                    break
                end = following
            ending = _Ending(index, end, self.bars[index].endings)
            following_on = bool(group) and group[-1].end == index - 1
            next_time = group[-1].times + len(late) + 1 if group else 0
            if not following_on and min(ending.numbers) == next_time and goals & {"", str(next_time)}:
                late.append(ending)  # "D.C. al 3rd ending": the third stands after the bridge
                ending.group = [ending]
            else:
                if not (following_on and min(ending.numbers) > min(group[-1].numbers)):
                    group, late = [], []
                group.append(ending)
                ending.group, ending.late = group, late
            found.update(dict.fromkeys(range(index, end + 1), ending))
            index = end + 1
        self.late = {each.start for ending in found.values() for each in ending.late}
        for ending in found.values():
            if ending.start not in self.late:
                self._check_group(ending.group)
        return found

    def _check_group(self, group: list[_Ending]) -> None:
        numbers = set().union(*(each.numbers for each in group))
        first = self.bars[group[0].start].number
        if min(numbers) != 1:
            raise unbalanced(first, f"ending {min(numbers)} is out of place (no ending 1 stands before it)")
        if numbers == {1}:
            raise unbalanced(first, "a first ending '[1 ..:|' needs its second, '[2'")
        if missing := set(range(1, max(numbers))) - numbers:
            raise unbalanced(first, f"ending {min(missing)} is missing")

    def _find_inner(self) -> dict[int, int]:
        """Repeats inside a repeat, where each opens with its sign: the bar that ends the inner one, and its first."""
        inner: dict[int, int] = {}
        open_at: list[int] = []
        for index, bar in enumerate(self.bars):
            if bar.opens:
                open_at.append(index)
            ending = self.endings.get(index)
            over = bar.closes if ending is None else index == ending.end and ending is ending.group[-1]
            if over and open_at:
                first = open_at.pop()
                if open_at:
                    inner[index] = first
        return {} if open_at else inner  # one that is never closed is around nothing

    def _find_coda(self) -> int | None:
        """The bar at which the coda begins. Of two signs with no words, the first is where it is left for."""
        signs = [index for index, bar in enumerate(self.bars) if bar.coda]
        leaving = [index for index, bar in enumerate(self.bars) if bar.to_coda]
        if len(signs) >= 2 and not leaving:
            first = signs[0]
            self.bars[max(first - 1, 0)].to_coda = True
        if signs:
            self.bars[signs[-1]].label = self.bars[signs[-1]].label or "Coda"
            return signs[-1]
        if leaving:
            jumps = [index for index, bar in enumerate(self.bars) if bar.jump and index >= leaving[0]]
            if jumps and jumps[-1] + 1 < len(self.bars):
                self._suppose_coda(jumps[-1] + 1)
                return jumps[-1] + 1
            raise ValueError(
                f"bar {self.bars[leaving[0]].number} of the chart says 'To Coda', but no coda is marked: "
                f"write [Coda] where it begins"
            )
        return None

    def _find_jumps(self) -> dict[int, Jump]:
        jumps = {index: bar.jump for index, bar in enumerate(self.bars) if bar.jump}
        has_leaving = any(bar.to_coda for bar in self.bars)
        if self.coda and has_leaving and not any(jump.goal in ("", "coda") for jump in jumps.values()):
            at = self.coda - 1
            if self._repeats_around_leaving(at):
                self.leaving_last = at
                self.remarks.append("the coda is taken the last time that its repeat is played")
            elif at not in jumps:
                self.remarks.append(
                    "the coda is played at the end of a second chorus, as no D.C. or D.S. says when to take it"
                )
                jumps[at] = Jump(False, "coda", True, "D.C. al Coda")
        for index, jump in jumps.items():
            number = self.bars[index].number
            if jump.to_sign and not any(bar.segno for bar in self.bars):
                raise self._unmarked(number, jump, "segno", "[Segno]")
            if jump.goal == "coda" and self.coda is None:
                if index + 1 == len(self.bars):
                    raise self._unmarked(number, jump, "coda", "[Coda]")
                self.coda = index + 1
                self._suppose_coda(index + 1)
            if jump.goal == "fine" and not any(bar.fine for bar in self.bars):
                raise self._unmarked(number, jump, "Fine", "[Fine]")
            if jump.goal.isdigit() and not any(
                int(jump.goal) in ending.numbers for ending in self.endings.values()
            ):
                raise self._unmarked(number, jump, f"ending {jump.goal}", f"[{jump.goal}")
        return jumps

    def _repeats_around_leaving(self, close: int) -> bool:
        """Whether the bar before the coda ends a repeat, without endings, that the coda is left from."""
        if not self.bars[close].closes or close in self.endings:
            return False
        first = next((index for index in range(close, -1, -1) if self.bars[index].opens), 0)
        inside = range(first, close + 1)
        return any(self.bars[index].to_coda for index in inside) and not any(
            self.bars[index].closes or index in self.endings for index in inside[:-1]
        )

    def _suppose_coda(self, index: int) -> None:
        self.remarks.append(f"the coda is not marked: it is taken to begin at bar {self.bars[index].number}")

    @staticmethod
    def _unmarked(number: int, jump: Jump, what: str, sign: str) -> ValueError:
        return ValueError(
            f"bar {number} of the chart says {jump.words!r}, but no {what} is marked: write {sign}"
        )

    # ------------------------------------------------------------------------------------------------------
    # playing it
    # ------------------------------------------------------------------------------------------------------
    def play(self) -> tuple[list[int], list[str]]:
        order: list[int] = []
        taken: set[int] = set()
        start, time_round = 0, 1  # of the repeat that is being played
        opened = False  # whether a sign opened it
        left_endings = False  # the last repeat's endings are over, and nothing has been opened since
        jump: Jump | None = None
        goal = ""
        arrived = False  # by going back: an opening sign opens nothing new
        around: list[tuple[int, int, bool]] = []  # the repeats that the one being played stands in
        inner_starts = set(self.inner.values())
        index = 0
        while index < len(self.bars):
            bar = self.bars[index]
            if bar.opens and not arrived:
                if index in inner_starts:
                    around.append((start, time_round, opened))
                start, time_round, opened, left_endings = index, 1, True, False
            arrived = False
            ending = self.endings.get(index)
            if ending is not None and index == ending.start and ending is ending.group[0]:
                ending = self._choose(ending, time_round, jump, goal)
                index = ending.start
                bar = self.bars[index]
            order.append(index)
            if len(order) > MAX_BARS:
                raise ValueError(
                    f"the chart has more than {MAX_BARS} bars with its repeats: shorten it, charts loop anyway"
                )
            named = ending is not None and goal.isdigit() and int(goal) in ending.numbers
            if bar.fine and jump is not None and (goal == "fine" or named):
                break
            over = self.leaving_last is not None and start <= index <= self.leaving_last
            last_time = over and time_round == self.bars[self.leaving_last or 0].closes
            jumping = jump is not None and goal == "coda"
            if bar.to_coda and (jumping or last_time) and self.coda is not None:
                index, start, time_round = self.coda, self.coda, 1
                jump, opened, left_endings = None, False, False
                arrived = False
                continue
            ends = ending is not None and index == ending.end
            if ends and ending is not None and named and jump is not None and ending.start not in self.late:
                break
            if bar.closes or (ends and ending is not None and ending is not ending.group[-1]):
                times = ending.times if ends and ending is not None else bar.closes
                if left_endings and not opened and not ends:
                    start, opened = self._section_of(index, start, bar.number), True
                if time_round < times and not (jump is not None and not jump.repeats):
                    time_round += 1
                    index, arrived = start, True
                    continue
            if index in self.jumps and index not in taken:
                taken.add(index)
                jump = self.jumps[index]
                goal = self._goal(jump)
                index = next(at for at, each in enumerate(self.bars) if each.segno) if jump.to_sign else 0
                start, time_round, opened, left_endings = index, 1, False, False
                around = []
                continue
            if index in self.inner and around:
                start, time_round, opened = around.pop()
                left_endings = False
            elif ends and ending is not None:
                index = ending.group[-1].end
                left_endings, opened = True, False
                start, time_round = index + 1, 1
            elif bar.closes:
                start, time_round, opened, left_endings = index + 1, 1, False, False
            index += 1
        else:
            if jump is not None and goal == "coda" and any(each.to_coda for each in self.bars):
                raise ValueError(
                    f"{jump.words!r} never comes to the place where the coda is taken: "
                    f"mark it with [To Coda] between where the music goes back to and where it goes back from"
                )
        return order, self.remarks

    def _section_of(self, index: int, after: int, number: int) -> int:
        """Where a repeat begins that no sign opens and that ends after the endings of another: with its section."""
        first = next((at for at in range(index, after - 1, -1) if self.bars[at].label), None)
        if first is None:
            raise unbalanced(number, "':|' after a last ending: no '|:' says what it repeats")
        taken = self.bars[first].number
        self.remarks.append(f"bar {number}: no sign opens this repeat: it is taken from bar {taken}")
        return first

    def _goal(self, jump: Jump) -> str:
        if jump.goal:
            return jump.goal
        if self.coda is not None and any(bar.to_coda for bar in self.bars):
            return "coda"
        if any(bar.fine for bar in self.bars):
            return "fine"
        return next((str(min(self.bars[index].endings)) for index in sorted(self.late)), "")

    def _choose(self, first: _Ending, time_round: int, jump: Jump | None, goal: str) -> _Ending:
        group = first.group
        wanted = time_round
        if jump is not None and goal.isdigit():
            wanted = int(goal)
        elif jump is not None and not jump.repeats:
            wanted = first.times
        return next((each for each in (*group, *first.late) if wanted in each.numbers), group[-1])
