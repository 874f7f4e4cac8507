"""What each stage costs, from shapes alone: floating-point operations, memory and bytes written to the lake.

A product of an n×k and a k×m matrix is 2nkm operations. T tokens of a document, I inputs (with the bias column) and O
outputs of a module, N a side of a square matrix. Element by element work is left out: it is a small share, and what it
takes is part of the efficiency of the hardware (`compute/hardware.py`). Routes are those that the engine would choose.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from compute.architecture import Architecture, LinearModule
from compute.checkpoint import DTYPES
from compute.covariances import COLUMNS_AT_ONCE
from compute.influence import choose_routes
from compute.low_rank import MOST_COMPONENTS
from compute.module_gradients import ELEMENTS_AT_ONCE
from compute.routes import Choice, Workload
from compute.token_loss import LOGITS_AT_ONCE_ON_A_GPU

DECOMPOSITION = "decomposition"  # float64, on the model's device
HOST_DECOMPOSITION = "host decomposition"  # float64, on the CPU
EIGH = 9  # n³ operations of a symmetric decomposition with vectors: Golub and Van Loan 2013, section 8.3
DOUBLE = 8
NORM_ROW_BYTES = 32  # of the lake, a document's norm, loss and id
SCORE_ROW_BYTES = 6  # a float32 score, and an id that is an index into a dictionary
RANKED_ROW_BYTES = 250  # with text, tokens and their scores


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
    rank: int | None  # None: full
    agreement: bool  # ranks are chosen, `rank` is what they are taken to be
    top_k: int
    token_budget: int
    fit_token_budget: int
    memory_bytes: int
    exact_bytes: int  # full-rank query gradients that exact scores hold at once
    dtype: str
    blocks: int = 1  # diagonal blocks of A and S


@dataclass(frozen=True)
class Cost:
    """One stage. `operations` by precision (a dtype, or a kind of decomposition); memory in bytes by what takes it."""

    operations: Counter[str]
    memory: dict[str, float] = field(default_factory=dict)
    lake_bytes: float = 0  # written
    lake_read: float = 0
    weights_read: float = 0  # bytes of weights that generation reads, a token at a time
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
        return replace(self, operations=operations, lake_bytes=self.lake_bytes * part, lake_read=self.lake_read * part)


@dataclass(frozen=True)
class CostModel:
    """The costs of one architecture in one setting."""

    architecture: Architecture
    setting: Setting

    def stages(self) -> dict[str, Cost]:
        """Every stage with a model or a factor in it, by the name of its asset; `influence` includes document norms."""
        return {
            "covariances": self.covariances(),
            "eigenbasis": self.eigenbasis(),
            "eigenvalues": self.eigenvalues(),
            "completions": self.completions(),
            "query_gradients": self.query_gradients(),
            "influence": self.influence(),
            "rankings": self.exact_scores(),
        }

    # passes

    def forward(self, tokens: float) -> float:
        """One sequence: 2 operations per weight and token; attention's QKᵀ and PV are 2T² per unit of width each."""
        linear = sum(each.weights for each in self.architecture.linears)
        return 2 * tokens * linear + 4 * tokens**2 * self._attention(self.architecture.attention_layers)

    def backward(self, tokens: float) -> float:
        """Gradients of activations alone, down to the lowest tracked module: as much as forward for each module that it
        goes through, twice as much for attention (Q, K, V and the weights of attention)."""
        linear = sum(each.weights for each in self.architecture.linears if each.backward)
        return 2 * tokens * linear + 8 * tokens**2 * self._attention(self.architecture.attention_layers_backward)

    def head(self, targets: float) -> float:
        """Logits of the positions that predict a token with loss."""
        return 2 * targets * self.architecture.head_weights

    def sequence_pass(self, tokens: float, targets: float) -> Counter[str]:
        """Forward and backward of one sequence (`compute/passes.py`)."""
        both = self.forward(tokens) + self.backward(tokens) + 2 * self.head(targets)
        return Counter({self.setting.dtype: both})

    def training_pass(self) -> float:
        """The yardstick: forward and full backward, weights' gradients included, of all documents; no optimizer."""
        tokens = self.setting.tokens
        linear = sum(each.weights for each in self.architecture.linears) + self.architecture.head_weights
        attention = 12 * tokens**2 * self._attention(self.architecture.attention_layers)
        return self.setting.documents * (6 * tokens * linear + attention)

    # stages

    def covariances(self) -> Cost:
        """Upper triangles of A (once for modules that share it) and S: about T·N² each (`add_products`)."""
        tokens = self.setting.sample_documents * self.setting.tokens
        products = sum(
            _triangle(each.module.out_features) + (0 if each.shares_input else _triangle(each.module.in_features))
            for each in self.architecture.tracked
        )
        sums = Counter({self._sums: tokens * products / self.setting.blocks})
        factors = self._factor_bytes()
        # The means are made of the sums while these are still there.
        memory = self._model_memory(self.setting.fit_token_budget) | {"sums and means": 2 * factors}
        return Cost(self._sample_pass() + sums, memory, lake_bytes=factors)

    def eigenbasis(self) -> Cost:
        """One float64 decomposition per A (once for modules that share it) and S, on the CPU."""
        sides = [
            side
            for each in self.architecture.tracked
            for side in ([each.module.out_features] + ([] if each.shares_input else [each.module.in_dim]))
        ]
        operations = sum(EIGH * side**3 for side in sides) / self.setting.blocks**2
        largest = max(sides) / self.setting.blocks
        factors = self._factor_bytes()
        # The matrix, its symmetrized copy, the eigenvectors, and as much again that LAPACK works in.
        memory = {"decomposition of the largest matrix": 5 * DOUBLE * largest**2}
        return Cost(Counter({HOST_DECOMPOSITION: operations}), memory, lake_bytes=factors, lake_read=factors)

    def eigenvalues(self) -> Cost:
        """Each document's gradient in the eigenbasis, rotated before or after it is formed (`eigenvalues._rotated`)."""
        rotated = sum(self._rotation(each) for each in self.architecture.tracked)
        sums = Counter({self._sums: self.setting.sample_documents * rotated})
        largest = max(map(_entries, self.architecture.tracked))
        memory = self._model_memory(self.setting.fit_token_budget) | {
            "eigenbasis": self._factor_bytes(),
            "eigenvalues": 2 * self._entry_bytes(),
            "gradients of some documents": 3 * self._sum_bytes * max(ELEMENTS_AT_ONCE, largest),
        }
        operations = self._sample_pass() + sums
        return Cost(operations, memory, lake_bytes=self._entry_bytes(), lake_read=self._factor_bytes())

    def completions(self) -> Cost:
        """Forward over prompts and, token by token, over what is generated; then over all completions for their loss.
        A step of generation reads every weight once, for as many prompts as have the same length: taken as one."""
        setting = self.setting
        generated = setting.generated * self.forward(setting.query_tokens) + self.head(
            setting.generated * setting.new_tokens
        )
        losses = setting.queries * (self.forward(setting.query_tokens) + self.head(setting.new_tokens))
        read = setting.generated * setting.new_tokens * self._weight_bytes()
        memory = self._model_memory(setting.token_budget, backward=False)
        return Cost(
            Counter({setting.dtype: generated + losses}), memory, setting.queries * NORM_ROW_BYTES, weights_read=read
        )

    def query_gradients(self) -> Cost:
        """Per query and module: form G, rotate it once, and per method truncate it: a Gram matrix of the smaller side
        and its decomposition in float64, then the components turned back (`compute/low_rank.py`)."""
        setting = self.setting
        operations = _times(setting.queries, self.sequence_pass(setting.query_tokens, setting.new_tokens))
        for each in self.architecture.tracked:
            operations += _times(setting.queries, self._truncation(each))
        components = sum(self.rank(each) * sum(_sides(each)) for each in self.architecture.tracked)
        largest = max(map(_entries, self.architecture.tracked))
        memory = self._model_memory(setting.query_tokens) | {
            "eigenbasis": self._factor_bytes(),
            "eigenvalues": self._entry_bytes(),
            "a query's gradients": self._entry_bytes() * (1 + 2 * setting.agreement),
            "decomposition": 4 * DOUBLE * largest,
        }
        written = self._sum_bytes * setting.queries * setting.methods * components
        return Cost(operations, memory, written, self._factor_bytes() + self._entry_bytes())

    def influence(self) -> Cost:
        """One pass over all documents; scores and norms cost what the routes say, which are chosen as the engine does
        (`compute/routes.py`)."""
        setting = self.setting
        workload = Workload(
            setting.tokens, max(1, setting.token_budget // setting.tokens), setting.memory_bytes, self._sum_bytes
        )
        directions = setting.queries * setting.methods
        ranks = {each.module.name: [self.rank(each)] * directions for each in self.architecture.tracked}
        routes = choose_routes([each.module for each in self.architecture.tracked], ranks, workload)
        products = sum(
            choice.costs[choice.route] * 2 * setting.tokens * _entries(each)
            for each, choice in zip(self.architecture.tracked, routes.values(), strict=True)
        )
        per_document = self.sequence_pass(setting.tokens, setting.tokens - 1) + Counter({self._sums: products})
        factors = self._sum_bytes * sum(
            directions * self.rank(each) * sum(_sides(each)) for each in self.architecture.tracked
        )
        memory = self._model_memory(setting.token_budget) | {
            "queries' gradients": 2 * factors,  # as they were read, and laid out for the routes
            "options.memory_mib": setting.memory_bytes,
        }
        rows = setting.documents * (directions * SCORE_ROW_BYTES + NORM_ROW_BYTES)
        return Cost(_times(setting.documents, per_document), memory, rows, factors, routes=routes)

    def exact_scores(self) -> Cost:
        """Full-rank gradients of some queries at a time, and a pass over the documents that their rankings list; at
        most 4·top_k per query and method (top and bottom, raw and normed)."""
        setting = self.setting
        listed = min(setting.documents, 4 * setting.top_k)
        at_once = max(1, int(setting.exact_bytes // (self._entry_bytes() * setting.methods)))
        groups = math.ceil(setting.queries / at_once)
        passes = groups * min(setting.documents, listed * setting.methods * min(at_once, setting.queries))
        operations = _times(passes, self.sequence_pass(setting.tokens, setting.tokens - 1))
        operations += _times(setting.queries, self.sequence_pass(setting.query_tokens, setting.new_tokens))
        for each in self.architecture.tracked:
            formed = 2 * setting.query_tokens * _entries(each) + 2 * self._turn(each)
            shares = listed * setting.methods * 2 * setting.tokens * _entries(each)
            operations += Counter({self._sums: setting.queries * (formed + shares)})
        memory = self._model_memory(setting.token_budget) | {
            "eigenbasis": self._factor_bytes(),
            "eigenvalues": self._entry_bytes(),
            "full-rank gradients": self._entry_bytes() * (1 + setting.methods * min(at_once, setting.queries)),
        }
        written = setting.queries * setting.methods * listed * (RANKED_ROW_BYTES + 8 * setting.tokens)
        return Cost(operations, memory, written, self._factor_bytes() + self._entry_bytes())

    def rank(self, linear: LinearModule) -> int:
        """The rank of a query's gradient of a module."""
        return min(self.setting.rank or math.inf, *_sides(linear))

    # parts

    def _sample_pass(self) -> Counter[str]:
        tokens = self.setting.tokens
        return _times(self.setting.sample_documents, self.sequence_pass(tokens, tokens - 1))

    def _rotation(self, linear: LinearModule) -> float:
        outputs, inputs = _sides(linear)
        tokens, blocks = self.setting.tokens, self.setting.blocks
        turned_first = 2 * tokens * (outputs**2 + inputs**2) / blocks
        return 2 * tokens * outputs * inputs + min(self._turn(linear), turned_first)

    def _turn(self, linear: LinearModule) -> float:
        """A gradient into the eigenbasis, or back."""
        outputs, inputs = _sides(linear)
        return 2 * outputs * inputs * (outputs + inputs) / self.setting.blocks

    def _truncation(self, linear: LinearModule) -> Counter[str]:
        setting, (small, large) = self.setting, sorted(_sides(linear))
        formed = 2 * setting.query_tokens * small * large + self._turn(linear)
        if setting.rank is None or (not setting.agreement and setting.rank >= small):
            return Counter({self._sums: formed + self._turn(linear)})
        kept = min(MOST_COMPONENTS, small) if setting.agreement else self.rank(linear)
        turned_back = 2 * self.rank(linear) * (small**2 + large**2) / setting.blocks
        return Counter(
            {
                self._sums: formed + setting.methods * turned_back,
                "float64": setting.methods * 2 * small * large * (small + kept),
                DECOMPOSITION: setting.methods * EIGH * small**3,
            }
        )

    def _attention(self, layers: int) -> int:
        return layers * self.architecture.attention_width

    @property
    def _sums(self) -> str:
        return "float64" if self.setting.dtype == "float64" else "float32"

    @property
    def _sum_bytes(self) -> int:
        return DTYPES[self._sums].itemsize

    def _weight_bytes(self) -> float:
        return self.architecture.parameters * DTYPES[self.setting.dtype].itemsize

    def _factor_bytes(self) -> float:
        """A and S of every tracked module, as the lake and the engine keep them: also where modules share A."""
        squares = sum(side**2 for each in self.architecture.tracked for side in _sides(each))
        return self._sum_bytes * squares / self.setting.blocks

    def _entry_bytes(self) -> float:
        """A number per weight of the tracked modules."""
        return self._sum_bytes * sum(map(_entries, self.architecture.tracked))

    def _model_memory(self, token_budget: int, *, backward: bool = True) -> dict[str, float]:
        """The weights, and what a batch of the token budget leaves for backward: inputs of tracked modules, outputs of
        all that the graph holds, queries, keys, values and results of attention, norms."""
        model, size = self.architecture, DTYPES[self.setting.dtype].itemsize
        held = [each for each in model.linears if each.backward or each.tracked]
        kept = sum(each.module.in_features for each in model.tracked if not each.shares_input)
        kept += sum(each.module.out_features for each in held)
        kept += 4 * self._attention(model.attention_layers_backward) + 4 * model.width * model.attention_layers
        widest = max(each.module.in_features + each.module.out_features for each in model.linears)
        passing = token_budget * (size * (kept if backward else 2 * widest) + self._sum_bytes * widest)
        chunk = min(LOGITS_AT_ONCE_ON_A_GPU, token_budget * model.vocabulary)
        return {"weights": self._weight_bytes(), "activations": passing, "logits": 3 * self._sum_bytes * chunk}


def _times(count: float, operations: Counter[str]) -> Counter[str]:
    return Counter({kind: count * each for kind, each in operations.items()})


def _triangle(side: int) -> float:
    """Operations per token of `covariances.add_products`: rows of blocks, each from its diagonal on."""
    return sum(2 * min(COLUMNS_AT_ONCE, side - start) * (side - start) for start in range(0, side, COLUMNS_AT_ONCE))


def _sides(linear: LinearModule) -> tuple[int, int]:
    return linear.module.out_features, linear.module.in_dim


def _entries(linear: LinearModule) -> int:
    outputs, inputs = _sides(linear)
    return outputs * inputs
