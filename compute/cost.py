"""What each stage costs, from shapes alone: floating-point operations, memory and bytes written to the lake.

Formulas of operations are in `compute/operations.py`; what scoring multiplies is what the engine's own choice of routes
says (`compute/routes.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from compute.architecture import Architecture, LinearModule
from compute.checkpoint import DTYPES
from compute.factor_memory import (
    Residence,
    bytes_to_fit,
    entry_bytes,
    gradient_copies,
    module_groups,
    residence,
    side_bytes,
)
from compute.gradient_sketch import KEPT
from compute.low_rank import MOST_COMPONENTS
from compute.module_gradients import ELEMENTS_AT_ONCE
from compute.operations import (
    EIGH,
    backward,
    columns,
    covariance,
    decomposed_sides,
    entries,
    forward,
    gradients,
    head,
    rotated_gradient,
    sides,
    tangent,
    training_pass,
    turn,
)
from compute.routes import Choice, Routes, Workload, choose_routes, documents_at_once, rebuilt_at_once
from compute.tracked_modules import TrackedModule

DECOMPOSITION = "decomposition"  # float64, on the model's device
HOST_DECOMPOSITION = "host decomposition"  # float64, on the CPU
DOUBLE = 8
NORM_ROW_BYTES = 32  # of the lake, a document's norm, loss and id
SCORE_ROW_BYTES = 6  # a float32 score, and an id that is an index into a dictionary
RANKED_ROW_BYTES = 250  # with text, tokens and their scores
AGREEMENT_ROW_BYTES = 600  # a query's means, co-moments and first documents, in a shard
COMPARED_BYTES = 100  # of memory, a score and its estimate on their way through tables
INDEX_ROW_BYTES = 19  # next to the code of a document: factor, norm and id
PLACE = 8  # bytes of an index of a direction


def decomposition_bytes(side: float) -> float:
    """The matrix, its symmetrized copy, the eigenvectors, and as much again that LAPACK works in."""
    return 5 * DOUBLE * side**2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much there is to do. `tokens` and `query_tokens` are means per document and query."""

    documents: int
    tokens: int
    sample_documents: int
    queries: int
    query_tokens: int
    generated: int  # queries whose completion the model writes
    new_tokens: int
    methods: int
    metrics: int  # that the methods differ in: gradients are truncated once for each
    turned: int = 1  # of these, such as turn a gradient into the eigenbasis: all but the plain one
    whitens: bool = False  # a method divides by the norm of a document's whitened gradient
    rank: int | None  # None: full
    agreement: bool  # ranks are chosen, `rank` is what they are taken to be
    top_k: int
    token_budget: int
    fit_token_budget: int
    memory_bytes: int
    exact_bytes: int  # full-rank query gradients that exact scores hold at once
    logits_at_once: int  # entries; the engine takes fewer on a CPU
    dtype: str
    products: str = "float32"  # of gradients in scoring; of float64 models they are float64
    blocks: int = 1  # diagonal blocks of A and S
    fit_memory_bytes: int | None = None  # for the factors of modules that are fitted at once; None: all
    refined_passes: int = 0  # of the method astra, for each query over
    refined_documents: int = 0  # of the sample
    agreement_documents: int = 0  # of the sample, on which the agreement of low ranks is measured
    index_dimensions: int | None = None  # bits of a document in the index; None: there is none
    index_candidates: int = 0  # documents that it proposes for a query
    shard_documents: int = 0  # of the largest shard, whose scores are held until it is done

    @property
    def sums_dtype(self) -> str:
        """Of factors and gradients."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def products_dtype(self) -> str:
        return self.sums_dtype if self.products == "float32" else self.products


@dataclass(frozen=True)
class Cost:
    """One stage. `operations` by precision (a dtype, or a kind of decomposition); memory in bytes by what takes it."""

    operations: Counter[str]
    memory: dict[str, float] = field(default_factory=dict)
    lake_bytes: float = 0  # written
    lake_read: float = 0
    weights_read: float = 0  # bytes of weights that generation reads, a token at a time
    codes_compared: float = 0  # bytes of the index, times queries
    routes: dict[str, Choice] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return float(sum(self.operations.values()))

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    def share(self, part: float) -> Cost:
        """The cost of a part of the work, such as one shard; memory stays."""
        operations = Counter({kind: count * part for kind, count in self.operations.items()})
        lake = {"lake_bytes": self.lake_bytes * part, "lake_read": self.lake_read * part}
        return replace(self, operations=operations, codes_compared=self.codes_compared * part, **lake)


def check_budgets(setting: Setting, modules: SequenceOf[TrackedModule]) -> None:
    """Raises BadInput for a budget of memory, for factors or for gradients, into which a module does not fit."""
    for stage in ("covariances", "eigenvalues"):
        fitted_groups(setting, modules, stage)
    scoring_routes(setting, modules)


def fitted_groups(setting: Setting, modules: SequenceOf[TrackedModule], stage: str) -> list[tuple[TrackedModule, ...]]:
    """The modules in the groups that a stage of the fit takes them in."""
    held = partial(bytes_to_fit, stage, blocks=setting.blocks, double=setting.sums_dtype == "float64")
    return module_groups(modules, held, setting.fit_memory_bytes)


def scoring_routes(setting: Setting, modules: SequenceOf[TrackedModule]) -> Routes:
    """As the engine chooses them (`compute/routes.py`)."""
    directions = setting.queries * setting.methods
    by_rank = {rank: [rank] * directions for rank in {rank_of(setting, module) for module in modules}}
    ranks = {module.name: by_rank[rank_of(setting, module)] for module in modules}
    return choose_routes(modules, ranks, workload_of(setting))


def workload_of(setting: Setting) -> Workload:
    size = DTYPES[setting.products_dtype].itemsize
    return Workload(setting.tokens, max(1, setting.token_budget // setting.tokens), setting.memory_bytes, size)


def rank_of(setting: Setting, module: TrackedModule) -> int:
    """The rank of a query's gradient of a module."""
    return min(setting.rank or math.inf, module.out_features, module.in_dim)


@dataclass(frozen=True)
class CostModel:
    """The costs of one architecture in one setting."""

    architecture: Architecture
    setting: Setting

    def stages(self) -> dict[str, Cost]:
        """Every stage with a model or a factor in it, by the name of its asset; `influence` includes document norms."""
        return {name: self.stage(name) for name in self.asked}

    @property
    def asked(self) -> list[str]:
        """Those of the stages that the setting asks for."""
        where_asked = {
            "refined_gradients": self.setting.refined_passes > 0,
            "document_index": self.setting.index_dimensions is not None,
            "index_statistics": self.setting.index_dimensions is not None,
        }
        return [name for name in STAGES if where_asked.get(name, True)]

    def stage(self, name: str) -> Cost:
        return STAGES[name](self)

    # passes

    def sequence_pass(self, tokens: float, targets: float) -> Counter[str]:
        """Forward and backward of one sequence (`compute/passes.py`)."""
        model = self.architecture
        both = forward(model, tokens) + backward(model, tokens) + 2 * head(model, targets)
        return Counter({self.setting.dtype: both})

    def training_pass(self) -> float:
        """The yardstick: operations of one training pass over all documents."""
        return self.setting.documents * training_pass(self.architecture, self.setting.tokens)

    # stages

    def covariances(self) -> Cost:
        """Upper triangles of A (once for modules that share it) and S: about T·N² each (`add_products`)."""
        tokens = self.setting.sample_documents * self.setting.tokens
        per_token = sum(covariance(each, self.setting.blocks) for each in self.architecture.tracked)
        passes, held = self._groups("covariances")
        operations = _times(passes, self._sample_pass()) + Counter({self._sums: tokens * per_token})
        # Of the last two inputs, which other modules may share.
        inputs = [each.module.in_features**2 for each in self.architecture.tracked if not each.shares_input]
        products = max(map(sum, pairwise(inputs)), default=inputs[0]) / self.setting.blocks
        memory = self._model_memory(self._fit_tokens) | {
            "covariances": held,
            "products of a batch": self._sum_bytes * products,
        }
        return Cost(operations, memory, lake_bytes=self._factor_bytes())

    def eigenbasis(self) -> Cost:
        """One float64 decomposition per A (once for modules that share it) and S, on the CPU."""
        decomposed = [side for each in self.architecture.tracked for side in decomposed_sides(each)]
        operations = sum(EIGH * side**3 for side in decomposed) / self.setting.blocks**2
        factors = self._factor_bytes()
        memory = {"decomposition of the largest matrix": decomposition_bytes(max(decomposed) / self.setting.blocks)}
        return Cost(Counter({HOST_DECOMPOSITION: operations}), memory, lake_bytes=factors, lake_read=factors)

    def eigenvalues(self) -> Cost:
        """Each document's gradient in the eigenbasis, rotated before or after it is formed (`rotated_gradients`)."""
        sums = _times(self.setting.sample_documents, self._rotation(self._fit_tokens))
        passes, held = self._groups("eigenvalues")
        memory = self._model_memory(self._fit_tokens) | {
            "eigenbasis and eigenvalues": held,
            "gradients of some documents": self._rotated_bytes(self._fit_tokens),
        }
        operations = _times(passes, self._sample_pass()) + sums
        return Cost(operations, memory, lake_bytes=self._entry_bytes(), lake_read=self._factor_bytes())

    def completions(self) -> Cost:
        """Forward over prompts and, token by token, over what is generated; then over all completions for their loss.
        A step of generation reads every weight once, for as many prompts as have the same length: taken as one, which
        reads of routed experts those that its token reaches."""
        setting, model = self.setting, self.architecture
        once = forward(model, setting.query_tokens) + head(model, setting.new_tokens)
        operations = Counter({setting.dtype: (setting.generated + setting.queries) * once})
        unread = sum(each.weights - each.weights_per_token for each in model.linears)
        read = setting.generated * setting.new_tokens * self._weight_bytes() * (1 - unread / model.parameters)
        memory = self._model_memory(setting.token_budget, backward=False)
        return Cost(operations, memory, setting.queries * NORM_ROW_BYTES, weights_read=read)

    def refined_gradients(self) -> Cost:
        """Per query, pass and document: forward and the head with their derivatives along the direction, forward and
        backward, and the sum of gradients (`compute/refinement.py`); the preconditioner, two turns of each module,
        once before the first pass and after each; and the query's own gradient."""
        setting, model, tokens = self.setting, self.architecture, self.setting.tokens
        moved = forward(model, tokens) + tangent(model, tokens) + 3 * head(model, tokens - 1)
        per_document = self.sequence_pass(tokens, tokens - 1)
        per_document += Counter({setting.dtype: moved}) + Counter({self._sums: gradients(model, tokens)})
        turns = Counter({self._sums: sum(2 * turn(each, setting.blocks) for each in model.tracked)})
        own = self.sequence_pass(setting.query_tokens, setting.new_tokens)
        own += Counter({self._sums: gradients(model, setting.query_tokens)})
        passes = _times(setting.refined_passes * setting.refined_documents, per_document)
        operations = _times(setting.queries, own + passes + _times(setting.refined_passes + 1, turns))
        memory = self._model_memory(setting.token_budget) | {
            "eigenbasis": self._factor_bytes(),
            "eigenvalues": self._entry_bytes(),
            "vectors of the iteration": 6 * self._entry_bytes(),
        }
        written = setting.queries * self._entry_bytes()
        return Cost(operations, memory, written, self.curvature_bytes())

    def query_gradients(self) -> Cost:
        """Per query and module: form G, rotate it once, and per metric truncate it: a Gram matrix of the smaller side
        and its decomposition in float64, then the components turned back (`compute/low_rank.py`)."""
        setting = self.setting
        operations = _times(setting.queries, self.sequence_pass(setting.query_tokens, setting.new_tokens))
        for each in self.architecture.tracked:
            operations += _times(setting.queries, self._truncation(each))
        largest = max(map(entries, self.architecture.tracked))
        measured, copies = self._measured, gradient_copies(setting.metrics, setting.agreement)
        curvature, at_once, readings = self._residence(self._gradients_held)
        at_once = min(at_once, setting.queries)
        directions = 2 * measured * at_once  # cut and whole, of one module
        if measured:
            operations += self._measuring(math.ceil(setting.queries / at_once))
            # What is not held is read again for each batch of the sample.
            readings *= 1 + self._measuring_batches * (curvature < self.curvature_bytes())
        longest = max(setting.query_tokens, self._tokens if measured else 0)
        memory = self._model_memory(longest) | {
            "curvature": curvature,
            "queries' gradients": self._entry_bytes() * copies * at_once + self._sum_bytes * directions * largest,
            "gradients of some documents": self._sum_bytes * max(largest, ELEMENTS_AT_ONCE) if measured else 0,
            "decomposition": 4 * DOUBLE * largest,
        }
        written = self.query_factor_bytes()
        return Cost(operations, memory, written, readings * self.curvature_bytes())

    def influence(self) -> Cost:
        """One pass over all documents; scores and norms cost what the routes say, which are chosen as the engine does
        (`compute/routes.py`)."""
        setting = self.setting
        workload, directions = workload_of(setting), setting.queries * setting.methods
        routes = scoring_routes(setting, [each.module for each in self.architecture.tracked])
        products = sum(
            2 * self._scored(each, choice, workload.documents)
            for each, choice in zip(self.architecture.tracked, routes.choices.values(), strict=True)
        )
        per_document = self.sequence_pass(setting.tokens, setting.tokens - 1)
        per_document += Counter({setting.products_dtype: products})
        curvature = self.curvature_bytes() if setting.whitens else 0
        if setting.whitens:
            per_document += self._rotation(self._tokens)
        factors = self.query_factor_bytes()
        memory = self._model_memory(self._tokens) | {
            # As they were read, and laid out for the routes; else in a file.
            "queries' gradients": factors * (1 + workload.bytes_per_entry / self._sum_bytes) if routes.kept else 0,
            "options.memory_mib": self._formed_bytes(routes, workload, directions),
            "scores": self._sum_bytes * setting.shard_documents * directions,
            "curvature": curvature,
        }
        rows = setting.documents * (directions * SCORE_ROW_BYTES + NORM_ROW_BYTES)
        return Cost(_times(setting.documents, per_document), memory, rows, factors + curvature, routes=routes.choices)

    def document_index(self) -> Cost:
        """One more pass over all documents: each gradient in the eigenbasis, as for Λ, and of it a sign code
        (`compute/document_index.py`); the Hadamard transform has no products."""
        setting = self.setting
        per_document = self.sequence_pass(setting.tokens, setting.tokens - 1) + self._rotation(self._tokens)
        curvature = self.curvature_bytes()
        batch, share = max(1, self._tokens // setting.tokens), self._kept_directions() / self._tracked
        largest = max(map(entries, self.architecture.tracked))
        kept = 2 * batch * self._sum_bytes * share * largest  # of one module: in chunks, and put together
        buckets = 4 * batch * self._sum_bytes * setting.index_dimensions
        passing = self._model_memory(self._tokens) | {
            "gradients of some documents": self._rotated_bytes(self._tokens) + kept + buckets
        }
        # The least share that is kept is found before the pass, among those of all directions, of which there are three
        # copies: where this is more than a batch takes, it is the worst moment.
        choosing = 3 * self._entry_bytes() - (sum(passing.values()) - passing["weights"])
        memory = passing | {"curvature": curvature, "sketch": self._sketch_bytes() + max(0.0, choosing)}
        written = setting.documents * self._index_row_bytes()
        return Cost(_times(setting.documents, per_document), memory, written, curvature)

    def index_statistics(self) -> Cost:
        """The queries' sketches, of dense gradients that are turned into the eigenbasis; then the index and the scores
        are read once, and each code is compared with every query, which has no products."""
        setting, tracked = self.setting, self.architecture.tracked
        per_query = sum(2 * self.rank(each) * entries(each) + turn(each, setting.blocks) for each in tracked)
        curvature = self.curvature_bytes()
        factors = self.query_factor_bytes()
        memory = {
            "weights": self._weight_bytes(),
            "curvature": curvature,
            "sketch": self._sketch_bytes() + 2 * self._entry_bytes(),  # choosing directions; later a dense gradient
            "queries' gradients": factors,
            "scores": COMPARED_BYTES * setting.shard_documents * setting.queries,
        }
        scanned = setting.documents * (self._index_row_bytes() + setting.queries * SCORE_ROW_BYTES)
        compared = setting.documents * setting.queries * setting.index_dimensions / 8
        of_shard = setting.shard_documents or setting.documents
        kept = 2 * 4 * min(max(50, setting.index_candidates), of_shard)  # the highest estimates, by both rankings
        written = math.ceil(setting.documents / max(1, of_shard)) * setting.queries * (kept + AGREEMENT_ROW_BYTES)
        operations = Counter({self._sums: setting.queries * per_query})
        return Cost(operations, memory, written, scanned + curvature + factors, codes_compared=compared)

    def exact_scores(self) -> Cost:
        """Full-rank gradients of some queries at a time, and a pass over the documents that their rankings list; at
        most 4·top_k per query and method (top and bottom, raw and normed)."""
        setting = self.setting
        listed = min(setting.documents, 4 * setting.top_k)
        copies = 1 + setting.methods
        at_once = max(1, int(setting.exact_bytes // (self._entry_bytes() * copies)))
        groups = math.ceil(setting.queries / at_once)
        passes = groups * min(setting.documents, listed * setting.methods * min(at_once, setting.queries))
        operations = _times(passes, self.sequence_pass(setting.tokens, setting.tokens - 1))
        if setting.whitens:
            operations += _times(passes, self._rotation(self._tokens))
        operations += _times(setting.queries, self.sequence_pass(setting.query_tokens, setting.new_tokens))
        for each in self.architecture.tracked:
            reached = each.module.token_share
            turns = (2 * setting.turned + setting.whitens) * turn(each, setting.blocks)
            formed = 2 * setting.query_tokens * reached * entries(each) + turns
            shares = listed * setting.methods * 2 * setting.tokens * reached * entries(each)
            operations += Counter({self._sums: setting.queries * (formed + shares)})
        curvature, _, readings = self._residence(self._exact_held)
        memory = self._model_memory(self._tokens) | {
            "curvature": curvature,
            "full-rank gradients": self._entry_bytes() * copies * min(at_once, setting.queries),
        }
        written = setting.queries * setting.methods * listed * (RANKED_ROW_BYTES + 8 * setting.tokens)
        read = min(readings, groups) * self.curvature_bytes()
        return Cost(operations, memory, written, read)

    def _formed_bytes(self, routes: Routes, workload: Workload, directions: int) -> float:
        """What routes take of the memory for gradients: queries' dense ones that are kept, and documents', of all
        modules where they are gathered or else of one at a time, beside queries' that
        are rebuilt."""
        size, tracked = workload.bytes_per_entry, {each.module.name: each for each in self.architecture.tracked}
        dense = gathered = documents = queries = 0
        for name, choice in routes.choices.items():
            module, of_one = tracked[name].module, entries(tracked[name]) * size
            if choice.route == "factors":
                continue
            gathered += routes.gathered * of_one
            at_once = documents_at_once(workload, routes.passing_bytes, of_one // size, choice.route)
            documents = max(documents, at_once * of_one)
            if choice.route == "formed":
                dense += directions * of_one
            else:
                rebuilt = rebuilt_at_once(routes.passing_bytes, size, module, directions, kept=routes.kept)
                queries = max(queries, math.prod(rebuilt) * module.in_features * size)
        passing = (gathered or documents) + queries
        return min(workload.memory_bytes, dense + passing)

    @property
    def _fit_tokens(self) -> int:
        """Padded tokens of the largest batch of the sample."""
        return min(self.setting.fit_token_budget, self.setting.sample_documents * self.setting.tokens)

    @property
    def _tokens(self) -> int:
        """The same of the documents that are scored."""
        return min(self.setting.token_budget, self.setting.documents * self.setting.tokens)

    def rank(self, linear: LinearModule) -> int:
        return rank_of(self.setting, linear.module)

    # parts

    def _routed_tokens(self, linear: LinearModule) -> int:
        """Of a document, for which routes are chosen: one at least, also of a routed expert."""
        return max(1, round(self.setting.tokens * linear.module.token_share))

    def _sample_pass(self) -> Counter[str]:
        tokens = self.setting.tokens
        return _times(self.setting.sample_documents, self.sequence_pass(tokens, tokens - 1))

    def _scored(self, linear: LinearModule, choice: Choice, documents: int) -> float:
        """Multiplications of a document at a module. Its route is chosen for its share of the tokens; a routed expert's
        are padded, which by factors is a part of all of them, else of the forming alone."""
        chosen_for, padded = self._routed_tokens(linear), columns(linear, self.setting.tokens, documents)
        told = choice.multiplications[choice.route] * chosen_for * entries(linear)
        if linear.module.token_share == 1:
            return told
        if choice.route == "factors":
            return told * padded / chosen_for
        return told + (padded - chosen_for) * entries(linear)

    def _rotation(self, in_flight: int) -> Counter[str]:
        """A document's gradients in the eigenbasis, in batches of so many tokens."""
        tokens, blocks, tracked = self.setting.tokens, self.setting.blocks, self.architecture.tracked
        documents = max(1, in_flight // tokens)
        rotated = (rotated_gradient(each, columns(each, tokens, documents), blocks) for each in tracked)
        return Counter({self._sums: sum(rotated)})

    def _rotated_bytes(self, tokens: int) -> float:
        """Gradients of some documents, and what turning them into the eigenbasis takes, with `tokens` in flight."""
        largest, documents = max(map(entries, self.architecture.tracked)), max(1, tokens // self.setting.tokens)
        return 3 * self._sum_bytes * max(largest, min(ELEMENTS_AT_ONCE, documents * largest))

    @property
    def _tracked(self) -> int:
        """Weights of the tracked modules, which are as many directions."""
        return sum(map(entries, self.architecture.tracked))

    def _kept_directions(self) -> float:
        """Of which the sketch of the index is made (`compute/gradient_sketch.py`)."""
        return min(self._tracked, max(self.setting.index_dimensions, KEPT * self._tracked))

    def _sketch_bytes(self) -> float:
        """Place and weight of each direction that is kept."""
        return self._kept_directions() * (PLACE + self._sum_bytes)

    def _index_row_bytes(self) -> float:
        return self.setting.index_dimensions / 8 + INDEX_ROW_BYTES

    def query_factor_bytes(self) -> float:
        """Low-rank gradients of all queries and methods."""
        setting = self.setting
        components = sum(self.rank(each) * sum(sides(each)) for each in self.architecture.tracked)
        return self._sum_bytes * setting.queries * setting.methods * components

    def _truncation(self, linear: LinearModule) -> Counter[str]:
        setting, (small, large) = self.setting, sorted(sides(linear))
        tokens, once = setting.query_tokens * linear.module.token_share, turn(linear, setting.blocks)
        # One turn for the norm of the whitened gradient, where a method divides by it.
        formed = 2 * tokens * small * large + setting.whitens * once
        if setting.rank is None or (not setting.agreement and setting.rank >= small):
            return Counter({self._sums: formed + 2 * setting.turned * once})  # there and back for each
        formed += once
        kept = min(MOST_COMPONENTS, small) if setting.agreement else self.rank(linear)
        turned_back = 2 * self.rank(linear) * (small**2 + large**2) / setting.blocks
        return Counter(
            {
                self._sums: formed + setting.metrics * turned_back,
                "float64": setting.metrics * 2 * small * large * (small + kept),
                DECOMPOSITION: setting.metrics * EIGH * small**3,
            }
        )

    def _measuring(self, passes: int) -> Counter[str]:
        """Gradients of the sample's documents, formed whole and multiplied with the queries' cut and whole ones
        (`compute/measured_agreement.py`); the first attempt at ranks alone. Whole ones are turned back too."""
        setting, tracked = self.setting, self.architecture.tracked
        of_pass = self.sequence_pass(setting.tokens, setting.tokens - 1)
        at_once = max(1, min(setting.agreement_documents, setting.token_budget // setting.tokens))
        formed = sum(2 * columns(each, setting.tokens, at_once) * entries(each) for each in tracked)
        of_pass += Counter({self._sums: formed})
        directions = setting.queries * setting.metrics
        cut_built = sum(2 * self.rank(each) * entries(each) for each in tracked)
        batches = self._measuring_batches
        products = 4 * setting.agreement_documents * sum(map(entries, tracked))
        turned = 2 * batches * setting.queries * setting.turned  # there and back, for each batch anew
        whole = turned * sum(turn(each, setting.blocks) for each in tracked)
        return _times(passes * setting.agreement_documents, of_pass) + Counter(
            {self._sums: directions * (products + batches * cut_built) + whole}
        )

    @property
    def _measuring_batches(self) -> int:
        return math.ceil(self.setting.agreement_documents * self.setting.tokens / self.setting.token_budget)

    def _groups(self, stage: str) -> tuple[int, float]:
        """Passes over the sample, and what the largest group of modules holds."""
        groups = fitted_groups(self.setting, [each.module for each in self.architecture.tracked], stage)
        fitted = partial(bytes_to_fit, stage, blocks=self.setting.blocks, double=self._sums == "float64")
        return len(groups), max(sum(map(fitted, group)) for group in groups)

    def bytes_of_query(self) -> dict[str, int]:
        """What one query's full gradients take, by the stages that hold them, whatever the memory for gradients is."""
        return {"query_gradients": self._gradients_held.bytes_of_query, "rankings": self._exact_held.bytes_of_query}

    @property
    def _measured(self) -> int:
        """Gradients of a query whose agreement with the full rank is measured."""
        return self.setting.metrics if self.setting.agreement_documents and self.setting.rank is not None else 0

    @property
    def _gradients_held(self) -> Residence:
        return self._held(gradient_copies(self.setting.metrics, self.setting.agreement), measured=self._measured)

    @property
    def _exact_held(self) -> Residence:
        """A gradient, and the directions along it by each method."""
        return self._held(1 + self.setting.methods, keeps_all=self.setting.whitens)

    def _held(self, copies: int, **named) -> Residence:
        setting, modules = self.setting, [each.module for each in self.architecture.tracked]
        named["double"] = self._sums == "float64"
        return residence(modules, setting.blocks, setting.memory_bytes, copies, **named)

    def _residence(self, held: Residence) -> tuple[float, int, int]:
        """Where queries' gradients are preconditioned: bytes of factors held, queries at once, readings of them all."""
        setting, modules = self.setting, [each.module for each in self.architecture.tracked]
        if held.keeps_all:
            return self.curvature_bytes(), held.queries_at_once, 1
        side = partial(side_bytes, blocks=setting.blocks, double=self._sums == "float64")
        entry = partial(entry_bytes, double=self._sums == "float64")
        largest = max(side(module) + entry(module) for module in modules)
        return largest, held.queries_at_once, math.ceil(setting.queries / held.queries_at_once)

    def _attention(self, layers: int) -> int:
        return layers * self.architecture.attention_width

    @property
    def _sums(self) -> str:
        return self.setting.sums_dtype

    @property
    def _sum_bytes(self) -> int:
        return DTYPES[self._sums].itemsize

    def _weight_bytes(self) -> float:
        return self.architecture.parameters * DTYPES[self.setting.dtype].itemsize

    def _factor_bytes(self) -> float:
        """A and S of every tracked module, as the lake and the engine keep them: also where modules share A."""
        squares = sum(side**2 for each in self.architecture.tracked for side in sides(each))
        return self._sum_bytes * squares / self.setting.blocks

    def curvature_bytes(self) -> float:
        """The eigenbasis and Λ of all modules."""
        return self._factor_bytes() + self._entry_bytes()

    def _entry_bytes(self) -> float:
        """A number per weight of the tracked modules."""
        return self._sum_bytes * self._tracked

    def _model_memory(self, token_budget: int, *, backward: bool = True) -> dict[str, float]:
        """The weights, and what a batch of the token budget leaves for backward: inputs of tracked modules, outputs of
        all that the graph holds, queries, keys, values and results of attention, norms."""
        model, size = self.architecture, DTYPES[self.setting.dtype].itemsize
        held = [each for each in model.linears if each.backward or each.tracked]
        inputs = (each.module for each in model.tracked if not each.shares_input)
        kept = sum(module.token_share * module.in_features for module in inputs)
        kept += sum(each.module.token_share * each.module.out_features for each in held)
        kept += 4 * self._attention(model.attention_layers_backward) + 4 * model.width * model.attention_layers
        widest = max(each.module.in_features + each.module.out_features for each in model.linears)
        passing = token_budget * (size * (kept if backward else 2 * widest) + self._sum_bytes * widest)
        chunk = min(self.setting.logits_at_once, token_budget * model.vocabulary)
        return {"weights": self._weight_bytes(), "activations": passing, "logits": 3 * self._sum_bytes * chunk}


STAGES: dict[str, Callable[[CostModel], Cost]] = {
    "covariances": CostModel.covariances,
    "eigenbasis": CostModel.eigenbasis,
    "eigenvalues": CostModel.eigenvalues,
    "completions": CostModel.completions,
    "refined_gradients": CostModel.refined_gradients,
    "query_gradients": CostModel.query_gradients,
    "influence": CostModel.influence,
    "rankings": CostModel.exact_scores,
    "document_index": CostModel.document_index,
    "index_statistics": CostModel.index_statistics,
}


def _times(count: float, operations: Counter[str]) -> Counter[str]:
    return Counter({kind: count * each for kind, each in operations.items()})
