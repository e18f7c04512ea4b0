"""Show progress while trainings run: one bar on a terminal, and elsewhere about a line a minute."""

import time
from collections.abc import Callable

from tqdm import tqdm

from framebudget.processor import rank
from framebudget.study import Training

SILENCE = 50  # seconds without a line, after which a log gets one
REDRAW = 0.2  # seconds between two updates of the bar
Tell = Callable[[float, float, str], None]


class Display:
    """Progress of all trainings of a stage. unit: what a training counts, such as epochs. totals: how many each has."""

    def __init__(self, doing: str, unit: str, totals: dict[Training, int]):
        self.doing, self.unit, self.totals = doing, unit, dict(totals)
        self.done: dict[Training, float] = dict.fromkeys(totals, 0)
        self.notes: dict[Training, str] = {}  # of the running trainings
        self.ended, self.drawn, self.spoken = 0, 0.0, time.monotonic()

    def __enter__(self) -> "Display":
        form = "{desc}: {percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}"
        self.bar = tqdm(
            desc=self.doing, total=sum(self.totals.values()), bar_format=form, disable=None if rank() == 0 else True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def teller(self, training: Training) -> Tell:
        """The function that a training calls to report its progress: (done, of, note)."""

        def tell(done: float, of: float, note: str) -> None:
            self.show(training, done, of, note)
            self.tick()

        return tell

    def show(self, training: Training, done: float, of: float, note: str = "") -> None:
        self.done[training], self.totals[training], self.notes[training] = done, of, note

    def end(self, training: Training, fault: str = "") -> None:
        """Print that a training has ended, and how."""
        note = self.notes.pop(training, "")
        self.done[training] = self.totals[training]
        self.ended += 1
        self.say(f"{training.title}: {'failed, ' + fault if fault else note}")

    def tick(self) -> None:
        """Refresh the bar, or print a line if the log had none for a while."""
        now = time.monotonic()
        if not self.bar.disable and now - self.drawn > REDRAW:
            self.drawn = now
            self.bar.total, self.bar.n = sum(self.totals.values()), sum(self.done.values())
            self.bar.set_postfix_str(self.state())
        elif self.bar.disable and now - self.spoken > SILENCE:
            self.say(f"{self.doing}: {self.ended} of {len(self.done)} done, {self.state() or 'starting the next'}")

    def state(self) -> str:
        """The progress of each running training."""
        return ", ".join(
            f"{training.name} {self.unit} {self.done[training]:.1f} of {self.totals[training]:g}"
            for training in self.notes
        )

    def say(self, text: str) -> None:
        self.spoken = time.monotonic()
        if rank() == 0:
            tqdm.write(text)
