"""Hugging Face datasets, filtered by their own `select`: the Trainer asks for the real type to drop columns.

`datasets` is not imported here: whoever hands in a dataset has imported it.
"""

from __future__ import annotations

from typing import Any

from vbdguard.errors import ConfigError, ReadError
from vbdguard.guards.counts import GuardRecord
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.kinds import is_a
from vbdguard.guards.options import GuardOptions
from vbdguard.guards.relabel import new_label
from vbdguard.guards.verdict import Verdict
from vbdguard.sources.torch_items import label_name


def is_hugging_face(dataset: Any) -> bool:
    """Return whether `dataset` is a `datasets.Dataset`."""
    return is_a(dataset, "datasets.arrow_dataset", "Dataset")


def guard_hugging_face(dataset: Any, options: GuardOptions) -> Any:
    """Return a `datasets.Dataset` of the kept rows, with the same columns, features and format.

    Its attribute `vbdguard` is a `GuardRecord` with the report and the counts. As every attribute, it is lost when
    the result is selected from, mapped or otherwise made anew; the rows that were taken out stay out.

    Args:
        dataset: a `datasets.Dataset` with one image and one label a row; seen by the scan without format and
            transform.
        options: of the guard.

    Raises:
        ConfigError: if rows are to be relabelled and there is no label column under a known name.
        SourceError: if it cannot be scanned.
        PoisonFoundError: under on_poison="raise".
        UnscannedSampleError: under on_unscanned="raise".
    """
    return selected(GuardedDataset(dataset, **options.for_datasets()))


def selected(guarded: GuardedDataset) -> Any:
    """Return the `datasets.Dataset` inside a guard, without what the guard takes out."""
    verdict = guarded.verdict
    dataset = _with_new_labels(guarded.unguarded, verdict) if verdict.new_labels else guarded.unguarded
    kept = dataset.select(verdict.kept)
    kept.vbdguard = GuardRecord(report=verdict.report, counts=verdict.counts)
    return kept


def _with_new_labels(dataset: Any, verdict: Verdict) -> Any:
    """Return the dataset with another label column; the images are neither read nor copied."""
    plain = dataset.with_format(None)
    column = _label_column(plain)
    labels = list(plain[column])
    for index, change in verdict.new_labels.items():
        labels[index] = new_label(labels[index], change)
    rewritten = plain.remove_columns(column).add_column(column, labels, feature=plain.features[column])
    style = dataset.format
    return rewritten.select_columns(plain.column_names).with_format(
        style["type"],
        columns=style["columns"],
        output_all_columns=style["output_all_columns"],
        **style["format_kwargs"],
    )


def _label_column(dataset: Any) -> str:
    try:
        return label_name(dataset.features)
    except ReadError as error:
        raise ConfigError(
            f'on_poison="relabel" finds no class column: {error.detail}; rename_column() it, or use "drop"'
        ) from error
