"""study/<study>/completions: what is explained, per query: a given completion or the model's own greedy one."""

import math
from collections.abc import Callable, Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.tokenizer import stored_tokenizer, tokenizer_table
from assets.figures.charts import completion_nats
from assets.figures.previews import kept_figure, table_of
from assets.lake.columns import POSITION, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.model.fit import check_query_length
from assets.model.opening import open_traced_model
from assets.queries.queries import ANSWER, KIND, PROMPT, TASK, queries_table
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.answers import is_right
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "What is explained: a given completion or the model's own greedy one, with its loss and whether it is right."


def completions_table(study: str) -> Table:
    tokens = pa.list_(pa.int32())
    return Table(
        key=("study", study, "completions"),
        grain="one row per query of the study",
        columns=(
            POSITION,
            QUERY_ID,
            PROMPT,
            Column("completion", pa.string(), "The completion that is explained."),
            Column("generated", pa.bool_(), "Whether the completion is the model's own (greedy)."),
            Column("prompt_token_ids", tokens, "The prompt's tokens, special ones included."),
            Column("completion_token_ids", tokens, "The completion's tokens: those that carry the query's loss."),
            Column("nats", pa.float64(), "Information of the completion: −log p(completion | prompt), in nats."),
            Column("loss", pa.float64(), "Mean cross-entropy per token of the completion, in nats."),
            TASK,
            KIND,
            ANSWER,
            Column("is_right", pa.bool_(), "Whether the completion gives the answer; null: unknown.", nullable=True),
            STAMP,
        ),
        sort_by=("position",),
    )


def query_side_tables(study: Study) -> tuple[Table, ...]:
    """The checkpoints that a query passes through: the model's, and the query-side model's where there is one."""
    models = [study.spec.model, *([study.spec.query_model] if study.spec.query_model else [])]
    return tuple(checkpoint_table(model.name) for model in models)


def query_side_dtypes(study: Study) -> list[str]:
    """The precisions of those models, which their checkpoints do not tell."""
    models = [study.spec.model, *([study.spec.query_model] if study.spec.query_model else [])]
    return [model.dtype for model in models]


def completions_asset(study: Study) -> dg.AssetsDefinition:
    """Completes the prompts that have no completion, and takes the loss of every completion."""
    name, queries = study.name, queries_table(study.spec.queries.name)
    table = completions_table(name)
    upstream = (queries, tokenizer_table(study.spec.corpus.name), *query_side_tables(study))

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=[_loss_check(name)],
        ),
        deps=[each.asset_key for each in upstream],
        pool="gpu",
    )
    def completions(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        def work(step: Step) -> None:
            _complete_set(step, study, upstream)

        yield from run_step(context, lake, tracking, work, checks=[_loss_check(name)])

    return completions


def _loss_check(study: str) -> Check:
    sentence = "Every completion has at least one token, and a loss that is finite and not negative."
    return Check(completions_table(study), "losses_finite", sentence)


def _complete_set(step: Step, study: Study, upstream: tuple[Table, ...]) -> None:
    table, queries = completions_table(study.name), upstream[0]
    settings = [study.spec.options.max_new_tokens, query_side_dtypes(study)]
    stamp = fingerprint("completions", CODE_VERSION, settings, list(map(step.fingerprint, upstream)))
    if step.is_current(table, stamp):
        return
    rows = _completed(step, study, step.scan(queries).sort("position").collect().to_dicts())
    step.check(_loss_check(study.name), _lossless(study.name, rows))
    metadata = {
        "right": sum(row["is_right"] is True for row in rows),
        "wrong": sum(row["is_right"] is False for row in rows),
    }
    step.tracking.log_metrics({**metadata, "mean_nats": sum(row["nats"] for row in rows) / len(rows)}, 0)
    data = [{name: row.get(name) for name in table.schema.names} | {"fingerprint": stamp} for row in rows]
    written = pa.Table.from_pylist(data, schema=table.schema)
    frame = pl.from_arrow(written)
    metadata["some of them"] = table_of(frame, limit=4, columns=["query_id", "completion", "nats", "is_right"])
    metadata |= kept_figure(step.tracking, "nats", lambda: completion_nats(frame))
    step.write(table, written, stamp, metadata=metadata)


def _lossless(study: str, rows: list[dict]) -> str | None:
    bad = [row["query_id"] for row in rows if not (math.isfinite(row["nats"]) and row["nats"] >= 0)]
    return f"study {study}: the loss of query {bad[0]} is no finite number ({len(bad)} of {len(rows)})" if bad else None


def query_sequences(rows: list[dict]) -> list:
    """Queries as the engine takes them: the loss begins with the completion."""
    from compute.batches import Sequence

    return [
        Sequence(
            row["query_id"],
            [*row["prompt_token_ids"], *row["completion_token_ids"]],
            loss_start=len(row["prompt_token_ids"]),
        )
        for row in rows
    ]


def _completed(step: Step, study: Study, rows: list[dict]) -> list[dict]:
    model, _ = open_traced_model(step, study, query_side=True)
    tokenizer, _ = stored_tokenizer(step, study.spec.corpus.name)
    wanted = sum(row["completion"] is None for row in rows)
    with step.progress(f"{study.name}: completions", wanted, "queries") as progress:
        return completed_queries(study, rows, model, tokenizer, on_batch=progress.advance)


def completed_queries(
    study: Study, rows: list[dict], model, tokenizer, *, on_batch: Callable[[int], None] | None = None
) -> list[dict]:
    """Rows of a query set with completion, tokens, nats and whether the answer is right.

    Raises BadInput for a query without tokens, or one that does not fit into the model's context.
    """
    from compute.checkpoint import context_length
    from compute.completions import completion_nats

    context = context_length(model)
    _tokenize(study, rows, tokenizer, context)
    _complete(study, model, tokenizer, [row for row in rows if row["completion"] is None], context, on_batch)
    budget = max(study.spec.options.token_budget, *(len(sequence) for sequence in query_sequences(rows)))
    nats = completion_nats(model, query_sequences(rows), token_budget=budget)
    for row in rows:
        row["nats"] = nats[row["query_id"]]
        row["loss"] = row["nats"] / len(row["completion_token_ids"])
        row["is_right"] = is_right(row["completion"], row["answer"], kind=row["kind"], match=row["match"])
    return rows


def _tokenize(study: Study, rows: list[dict], tokenizer, context: int | None) -> None:
    from compute.windows import tokenize_query

    for row in rows:
        row["generated"] = row["completion"] is None
        prompt_ids, completion_ids = tokenize_query(row["prompt"], row["completion"], tokenizer)
        row["prompt_token_ids"], row["completion_token_ids"] = prompt_ids, completion_ids
        if context:
            check_query_length(
                row["location"], row["query_id"], (prompt_ids, completion_ids), context, study.spec.model.name
            )


def _complete(study: Study, model, tokenizer, rows: list[dict], context: int | None, on_batch) -> None:
    from compute.batches import Sequence
    from compute.completions import greedy_completions

    generated = greedy_completions(
        model,
        [Sequence(row["query_id"], row["prompt_token_ids"]) for row in rows],
        max_new_tokens=study.spec.options.max_new_tokens,
        end_token=tokenizer.eos_token_id,
        context=context,
        on_batch=on_batch,
    )
    for row in rows:
        row["completion_token_ids"] = generated[row["query_id"]]
        row["completion"] = tokenizer.decode(generated[row["query_id"]], skip_special_tokens=True)
