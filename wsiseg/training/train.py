"""Training from beginning to end: data, steps, validations, and weights that can be used.

Killed at any moment and started again, it ends in the same bytes: batches are functions of seed
and step, a checkpoint is taken at the end of a step and before each validation, and the best
weights follow from the list of validations alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsiseg import __version__
from wsiseg.atomic import atomic_write
from wsiseg.errors import ModelError
from wsiseg.interrupt import Stop, stoppable
from wsiseg.model.weights import Weights, load_weights, rounded, weights_bytes
from wsiseg.model.zoo import find_weights
from wsiseg.training.average import mean_weights
from wsiseg.training.config import TrainConfig, read_config
from wsiseg.training.examples import Examples, read_examples
from wsiseg.training.folder import TrainFolder, write_json
from wsiseg.training.key import key_of, record_of, without
from wsiseg.training.log import TrainLog
from wsiseg.training.loop import Report, run_steps, settled
from wsiseg.training.outcome import Sets, Tell, Trained, TrainProgress, trained_json
from wsiseg.training.picture import chosen, draw, tile_of
from wsiseg.training.product import model_of, raw_weights, score_all, store
from wsiseg.training.provenance import Terms, terms_of
from wsiseg.training.ranges import with_ranges
from wsiseg.training.sample import Crops
from wsiseg.training.scoring import judge, mean_of, summary_of
from wsiseg.training.start import new_network
from wsiseg.training.state import State, load_state, new_state, save_state

__all__ = ["start_of", "train", "train_on"]

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig | str | Path,
    out: str | Path,
    *,
    fresh: bool = False,
    progress: Tell | None = None,
) -> Trained:
    """Train by a TrainConfig or a TOML file; go on with an interrupted training in ``out``.

    ``fresh`` starts over. ``progress`` is called after each step and each validation. SIGINT and
    SIGTERM, in the main thread, end the step, save it, and then do what they did before.

    Raises SettingsError, InputFileError (data), ModelError (weights to start from, a corrupt
    checkpoint, a loss that is not finite), KeyMismatchError (another training in the folder),
    ForeignFolderError, LockedError and OutputError.
    """
    if not isinstance(config, TrainConfig):
        config = read_config(config)
    start = start_of(config)
    return train_on(config, read_examples(config), out, start=start, fresh=fresh, progress=progress)


def start_of(config: TrainConfig) -> Weights | None:
    """The weights that a training starts from; raises as ``find_weights``, ``mean_weights``."""
    found = [_found(config, name) for name in config.start]
    return mean_weights(found, config) if len(found) > 1 else next(iter(found), None)


def _found(config: TrainConfig, name: str) -> Weights:
    path = config.resolved(name)
    return find_weights(path if path.exists() else name)


def train_on(
    config: TrainConfig,
    examples: Examples,
    out: str | Path,
    *,
    start: Weights | None = None,
    fresh: bool = False,
    progress: Tell | None = None,
) -> Trained:
    """As ``train``, on images that are in memory."""
    began = time.time()
    config = replace(config, machine=settled(config.machine))
    rows = examples.rows(config.model.classes)
    terms = terms_of(config, rows, start)
    if terms.warning:
        _log.warning("%s", terms.warning)
    key = key_of(config, examples, start)
    with TrainFolder.open(Path(out), key, fresh=fresh) as folder, stoppable() as stop:
        write_json(folder.root / "config.json", record_of(config, rows))
        run = _Run(config, examples, folder, start, terms, stop, progress or _quiet)
        return _trained(run, key, rows, began)


def _quiet(progress: TrainProgress) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class _Run:
    """What the stages of one training share."""

    config: TrainConfig
    examples: Examples
    folder: TrainFolder
    start: Weights | None
    terms: Terms
    stop: Stop
    tell: Tell
    loss: float = float("nan")
    began: float = field(default_factory=time.monotonic)
    taken: int = 0

    def say(self, step: int, text: str = "") -> None:
        """Tell how far it is."""
        steps = self.config.schedule.steps
        each = (time.monotonic() - self.began) / self.taken if self.taken else None
        left = None if each is None else each * (steps - step)
        self.tell(TrainProgress(step, steps, self.loss, left, text))

    def count(self, report: Report) -> None:
        """Count a step."""
        total = sum(report.losses.values())
        self.taken += 1
        self.loss = 0.98 * self.loss + 0.02 * total if self.taken > 1 else total
        self.say(report.step + 1)


def _trained(
    run: _Run, key: dict[str, Any], rows: Sequence[dict[str, Any]], began: float
) -> Trained:
    state = _begun(run, key)
    if state.step:
        run.say(state.step, f"going on from step {state.step}")
    log = TrainLog(run.folder.log, _columns(run), step=state.step, every=run.config.log_every)
    try:
        _go(run, state, log, key)
    except ModelError as error:  # a loss or a statistic that is not finite
        raise ModelError(f"{run.folder.root}: {error} ({run.folder.state})") from error
    finally:
        log.close()
    return _ended(run, state, rows, began)


def _begun(run: _Run, key: dict[str, Any]) -> State:
    """The state of the checkpoint, or a new one."""
    state = new_state(new_network(run.config, run.start), run.config.schedule)
    if run.folder.state.exists():
        try:
            load_state(run.folder.state, state, {"key": key})
        except ModelError as error:
            raise ModelError(
                f"the checkpoint cannot be used: {error}; start over with --fresh"
            ) from error
    run.folder.cut_history(state.step)
    return state


def _columns(run: _Run) -> list[str]:
    """Losses and scores that there can be."""
    names = ["np", "dice"]
    network = run.config.network
    names += ["dt"] * network.distance + ["hv"] * network.vectors + ["tp"] * bool(network.classes)
    found = [f"loss.{name}" for name in names]
    for name in sorted({item.set for item in run.examples.val}):
        mine = [item for item in run.examples.val if item.set == name]
        if any(item.labels is not None for item in mine):
            found += [f"val.{name}.{metric}" for metric in ("pq", "dq", "aji", "dice")]
        if any(item.centres is not None for item in mine):
            found.append(f"val.{name}.f1")
    return found


def _go(run: _Run, state: State, log: TrainLog, key: dict[str, Any]) -> None:
    """Steps, checkpoints and validations, until there are enough."""
    crops = _crops(run)
    while True:
        if _is_due(run, state.step):
            _validate(run, state, log)
        if state.step >= run.config.schedule.steps or _is_stale(run):
            return
        _steps(run, state, log, crops)
        save_state(run.folder.state, state, {"key": key})
        run.stop.check()


def _crops(run: _Run) -> Crops:
    config = run.config
    return Crops(
        run.examples.train,
        config.sampling,
        stem=config.network.stem,
        classes=config.network.classes,
        seed=config.seed,
    )


def _steps(run: _Run, state: State, log: TrainLog, crops: Crops) -> None:
    """Steps up to the next checkpoint or validation, or until told to stop."""
    config = run.config
    ends = (config.schedule.steps, *(_next(state.step, n) for n in
            (config.checkpoint, config.validation.every)))  # fmt: skip
    steps = run_steps(state, crops, config.schedule, config.loss, config.machine, min(ends))
    for report in steps:
        log.step(report)
        run.count(report)
        if run.stop.asked:
            log.flush(report)
            return


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def _is_due(run: _Run, step: int) -> bool:
    """Whether the weights of ``step`` are to be scored and have not been."""
    if not run.examples.val or any(entry["step"] == step for entry in run.folder.history()):
        return False
    at_start = step == 0 and run.start is not None
    last = step == run.config.schedule.steps
    return at_start or last or (step > 0 and step % run.config.validation.every == 0)


def _is_stale(run: _Run) -> bool:
    """Whether the last validations, as many as there is patience for, brought nothing better."""
    patience, done = run.config.validation.patience, _validations(run)
    return bool(patience and done) and len(done) - 1 - done.index(_best(done)) >= patience


def _best(done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The validation with the highest mean; the first of equals, and any before none."""
    return max(done, key=_value)  # max keeps the first


def _value(entry: dict[str, Any]) -> float:
    return -math.inf if entry["mean"] is None else float(entry["mean"])


def _validations(run: _Run) -> list[dict[str, Any]]:
    """The validations but that of the start."""
    return [entry for entry in run.folder.history() if entry["step"] > 0]


def _validate(run: _Run, state: State, log: TrainLog) -> None:
    """Score the running mean, draw it, and keep it if it is the best so far."""
    weights = raw_weights(state.mean, run.config, run.terms.expression)
    shown = chosen(run.examples.val, run.config.validation.pictures)
    rows, tiles = [], []
    with model_of(weights, run.config) as model:
        for i, judged in enumerate(judge(model, run.examples.val, run.stop.check)):
            rows.append((judged.item.set, judged.scores))
            if i in shown:
                tiles.append(tile_of(judged))
    sets = summary_of(rows)
    mean = mean_of(sets, run.config.validation.sets)
    draw(run.folder.pictures / f"step-{state.step:07d}.png", tiles, f"step {state.step}")
    entry = {"step": state.step, "mean": mean, "sets": sets}
    _keep(run, state, weights, entry)
    run.folder.add_history(entry)  # last: what is not on the list is done again
    log.scores(state.step, sets)
    run.say(state.step, f"step {state.step}: val {_in_words(sets, mean)}")


def _keep(run: _Run, state: State, weights: Weights, entry: dict[str, Any]) -> None:
    """Store ``weights`` where their validation is the best so far."""
    done = [*_validations(run), entry]
    if state.step == 0 or _best(done) is not entry:
        return
    with atomic_write(run.folder.best) as file:
        file.write(weights_bytes(weights.tensors, weights.facts))


def _in_words(sets: Sets, mean: float | None) -> str:
    each = [
        f"{name} {metric} {value:.3f}"
        for name, scores in sets.items()
        for metric in ("pq", "f1")
        if (value := scores.get(metric)) is not None
    ]
    return ", ".join(each) + ("" if mean is None else f"; mean {mean:.4f}")


def _ended(run: _Run, state: State, rows: Sequence[dict[str, Any]], began: float) -> Trained:
    """Weights that can be used, of the best validation or the last step; and the summary."""
    weights, step = _result(run, state)
    run.say(state.step, f"scoring the weights of step {step} as they are stored")
    half = with_ranges(rounded(weights), run.examples.train)
    scored = score_all(half, run.config, run.examples.val, run.stop.check)
    made = {
        "config": without(run.config.facts(), ("start",)),  # its path is nobody's business
        "data": list(rows),
        "data_sha256": run.examples.digest(),
        "start": _origin(run.start),
        "step": step,
        "parameters": sum(p.numel() for p in state.net.parameters()),
        "wsiseg": __version__,
    }
    done = store(run.folder.weights, half, scored, made, run.terms)
    first = [entry["sets"] for entry in run.folder.history() if entry["step"] == 0]
    trained = Trained(
        folder=run.folder.root,
        weights=run.folder.weights,
        step=state.step,
        best_step=step,
        scores=scored.sets,
        before=first[0] if first else {},
        nuclei=sum(row["nuclei"] for row in rows if row["split"] == "val"),
        calibration=done.facts["calibration"],
        licence=run.terms.expression,
        sha256=done.sha256,
        seconds=round(time.time() - began, 1),
    )
    write_json(run.folder.summary, trained_json(trained))
    return trained


def _result(run: _Run, state: State) -> tuple[Weights, int]:
    done = _validations(run)
    if run.config.validation.keep == "last" or not done:
        return raw_weights(state.mean, run.config, run.terms.expression), state.step
    return load_weights(run.folder.best), int(_best(done)["step"])


def _origin(start: Weights | None) -> dict[str, str] | None:
    if start is None:
        return None
    return {"name": str(start.facts["spec"]["name"]), "sha256": start.sha256}
