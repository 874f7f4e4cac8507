"""Routes from a module's activations and output gradients to scores, and what each costs.

Score of document d for query q at one module: ⟨P_q, G_d⟩ with G_d = Σ_t g_t aᵀ_t and P_q = U_q V_qᵀ of a low rank. The
same number comes out of three orders of multiplication (`compute/query_products.py`), and each module takes the one
that costs least:

- factors: Σ_t (g_t U)·(a_t V), no gradient of a document is formed; for few queries or short documents;
- formed: G, then one product with the dense gradients of all queries, which are kept; for many;
- rebuilt: the same with dense gradients that are made of their factors, some rows of them at a time; for so many
  queries that their dense gradients do not fit into the memory.

A product reads, and where they are rebuilt makes, the dense gradients of all queries, however few documents it is for.
So where a batch has few, the formed gradients of several batches are gathered for one product.

B documents of a batch, T positions, I inputs (with the bias column), O outputs, Q queries (times methods), R rank, K
the ranks of all queries together.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from compute.errors import BadInput
from compute.tracked_modules import TrackedModule

# Measured in units of the factor side's multiplications (docs/log.md): products per document are small matrices, and a
# product with the dense queries reads all of these, however few documents there are.
FORMING, GRAM = 1.3, 1.7
WORTH_IT = 1.02  # what a smaller memory may cost
DOCUMENTS_PER_PRODUCT = 32  # from so many on a product's time is that of its multiplications
FACTORS_SHARE = 2  # of the memory such a part is for the queries' factors
PASSING_SHARE = 4  # of the memory one such part is for gradients of documents that are formed and let go, or more
REBUILT_SHARE = 4  # of that, one such part is for rows of queries that are rebuilt; in caches these are read faster


@dataclass(frozen=True)
class Workload:
    """What routes are chosen for: a typical document's tokens, documents per batch, and what may be kept in memory."""

    tokens: int
    documents: int
    memory_bytes: int
    bytes_per_entry: int = 4

    @property
    def passing_bytes(self) -> int:
        """What a module's gradients that are formed and rebuilt, or factors that are read, take at a time at least."""
        return self.memory_bytes // PASSING_SHARE


@dataclass(frozen=True)
class Choice:
    """The route of a module, and what each would take, as multiples of the module's own forward pass: in time, by what
    products were measured to take, and in multiplications."""

    route: str
    costs: dict[str, float]
    multiplications: dict[str, float]

    @property
    def beyond_memory(self) -> list[str]:
        """Routes that would take less time, and whose dense gradients do not fit."""
        return [route for route, cost in self.costs.items() if cost < self.costs[self.route]]


@dataclass(frozen=True)
class Routes:
    """The choice of each module by name. `gathered` documents' gradients of all modules that form them are kept for one
    product; 0: a product for each batch. Factors of queries that are not `kept` in the memory are read from where they
    stand for every product. What of one module is formed, rebuilt or read at a time takes `passing_bytes`."""

    choices: dict[str, Choice]
    gathered: int
    kept: bool
    passing_bytes: int

    def names(self) -> dict[str, str]:
        """The route of each module, for the record of a run."""
        return {name: choice.route for name, choice in self.choices.items()}


def choose_routes(modules: SequenceOf[TrackedModule], ranks: dict[str, list[int]], workload: Workload) -> Routes:
    """The routes for queries of these ranks at each module; `formed` as long as the memory lasts.

    The memory is for the queries' factors, what is gathered or formed and let go, and dense gradients. Raises BadInput
    where it does not hold one document's gradient of a module that forms them.
    """
    factors = sum(sum(ranks[each.name]) * (each.out_features + each.in_dim) for each in modules)
    factors *= workload.bytes_per_entry
    kept = factors <= factors_bytes(workload.memory_bytes)
    left = workload.memory_bytes - factors if kept else workload.memory_bytes
    of_document = sum(each.out_features * each.in_dim for each in modules) * workload.bytes_per_entry
    largest = max(each.out_features * each.in_dim for each in modules)
    ways = _ways(workload, of_document, largest, left)
    found = [_routes(modules, ranks, workload, left, *each, of_document, kept) for each in ways]
    totals = [_total(modules, routes) for routes in found]
    # Fewest first: what a larger one saves has to be worth its memory.
    chosen = next(routes for routes, total in zip(found, totals, strict=True) if total <= WORTH_IT * min(totals))
    for module in modules:
        _refuse_too_little(module, chosen.choices[module.name], workload)
    return chosen


def _total(modules: SequenceOf[TrackedModule], routes: Routes) -> float:
    """What the routes take together."""
    choices = ((module, routes.choices[module.name]) for module in modules)
    return sum(
        choice.costs[choice.route] * each.out_features * each.in_dim * each.token_share for each, choice in choices
    )


def _routes(
    modules: SequenceOf[TrackedModule],
    ranks: dict[str, list[int]],
    workload: Workload,
    left: int,
    gathered: int,
    passing_bytes: int,
    of_document: int,
    kept: bool,
) -> Routes:
    """Those with so many documents gathered, whose gradients of all modules take `of_document` bytes each."""
    waiting = gathered * of_document
    # Queries that are rebuilt stand beside what is gathered.
    passing = max(waiting + passing_bytes // REBUILT_SHARE, passing_bytes)
    while True:
        choices = {}
        dense = left - passing
        for module in modules:
            choice = choose(module, ranks[module.name], workload, dense, gathered, passing_bytes)
            if choice.route == "formed":
                dense -= len(ranks[module.name]) * module.out_features * module.in_dim * workload.bytes_per_entry
            choices[module.name] = choice
        needed = _passing(choices, passing_bytes, waiting, kept)
        if needed <= passing:
            return Routes(choices, gathered, kept, passing_bytes)
        passing = needed  # these routes have more in hand at once, which leaves less for dense gradients


def _passing(choices: dict[str, Choice], passing_bytes: int, waiting: int, kept: bool) -> int:
    """What routes have in hand at once next to what they keep: one piece of memory serves the documents of all modules,
    another one the queries that are rebuilt (`query_products.Scratch`), and factors that are not kept are read."""
    taken = {choice.route for choice in choices.values()}
    documents = waiting or max((_documents_bytes(passing_bytes, route) for route in taken - {"factors"}), default=0)
    queries = passing_bytes // REBUILT_SHARE if "rebuilt" in taken else 0
    return documents + queries + (passing_bytes if "factors" in taken and not kept else 0)


def factors_bytes(memory_bytes: int) -> int:
    """What the queries' factors may take of the memory; those that take more stay where they are."""
    return memory_bytes // FACTORS_SHARE


def choose(
    module: TrackedModule,
    ranks: SequenceOf[int],
    workload: Workload,
    dense_bytes: int,
    gathered: int = 0,
    passing_bytes: int | None = None,
) -> Choice:
    """The cheapest route for queries of these ranks, where `dense_bytes` are left for dense gradients.

    The norms of documents' gradients are included; they come for nothing where gradients are formed.
    """
    outputs, inputs = module.out_features, module.in_dim
    tokens = max(1, round(workload.tokens * module.token_share))
    entries, forward = outputs * inputs, tokens * outputs * inputs
    product, factors = len(ranks) * entries, tokens * sum(ranks) * (outputs + inputs)
    norm = min(forward, tokens * tokens * (outputs + inputs))
    passing_bytes = passing_bytes or workload.passing_bytes
    at_once = {
        route: gathered or documents_at_once(workload, passing_bytes, entries, route) for route in ("formed", "rebuilt")
    }
    # The last product of a batch may be for a few; what is gathered is full.
    products = 1 / gathered if gathered else -(-workload.documents // at_once["rebuilt"]) / workload.documents
    rebuilding = sum(ranks) * entries * products
    few = {route: max(1, DOCUMENTS_PER_PRODUCT / each) for route, each in at_once.items()}
    multiplications = {
        "factors": factors + norm,
        "formed": forward + product,
        "rebuilt": forward + product + rebuilding,
    }
    costs = {
        "factors": factors + (FORMING if norm == forward else GRAM) * norm,
        "formed": FORMING * forward + product * few["formed"],
        "rebuilt": FORMING * forward + product * few["rebuilt"] + rebuilding,
    }
    fits = len(ranks) * entries * workload.bytes_per_entry <= dense_bytes
    route = min((name for name in costs if name != "formed" or fits), key=costs.__getitem__)
    return Choice(route, *({name: each / forward for name, each in of.items()} for of in (costs, multiplications)))


def documents_at_once(workload: Workload, passing_bytes: int, entries: int, route: str) -> int:
    """Documents of a batch whose gradients of so many entries are formed for one product, where none are gathered."""
    fitting = _documents_bytes(passing_bytes, route) // (workload.bytes_per_entry * entries)
    return max(1, min(workload.documents, fitting))


def _documents_bytes(passing_bytes: int, route: str) -> int:
    """What of it is for documents: all but what queries take that are rebuilt."""
    return passing_bytes - (passing_bytes // REBUILT_SHARE if route == "rebuilt" else 0)


def rebuilt_at_once(
    passing_bytes: int, bytes_per_entry: int, module: TrackedModule, queries: int, kept: bool
) -> tuple[int, int]:
    """Of how many queries how many rows of the dense gradients are rebuilt at a time.

    Some rows of all queries: documents are then read once for all of them. Factors that are not `kept` would be read
    for all rows again, so that these queries are taken whole instead, as many as fit.
    """
    rows, of_row = module.out_features, module.in_features * bytes_per_entry
    fitting = max(1, passing_bytes // REBUILT_SHARE // of_row)  # rows of one query
    at_once = max(1, min(queries, fitting if kept else fitting // rows))
    return at_once, max(1, min(rows, fitting // at_once))


def _ways(workload: Workload, of_document: int, largest: int, left: int) -> list[tuple[int, int]]:
    """How many documents may be gathered, and the memory for what is formed, rebuilt or read at a time; the one that
    takes the least first.

    Gathered are whole batches: those that make a product whole, or 0 where a batch is enough for that or two do not
    fit; then more of them, for which queries are rebuilt less often. Where none are gathered, more memory is for more
    of a batch's documents.
    """
    usual, ways = workload.passing_bytes, []
    room = left - usual // REBUILT_SHARE
    fitting = room // (of_document * workload.documents)  # batches
    # Dense gradients are to have their part.
    batches = min(DOCUMENTS_PER_PRODUCT // workload.documents, fitting // 2)
    if batches < 2:
        batches = 0
        ways.append((0, usual))
        for more in (2 * usual, left):
            before = ways[-1][1]
            is_whole = documents_at_once(workload, before, largest, "rebuilt") == workload.documents
            if not is_whole and before < more <= left:
                ways.append((0, more))
    else:
        ways.append((batches * workload.documents, usual))
    while (batches := max(2, 2 * batches)) <= fitting:
        ways.append((batches * workload.documents, usual))
    return ways


def _refuse_too_little(module: TrackedModule, choice: Choice, workload: Workload) -> None:
    if choice.route == "factors":
        return
    gradient = module.out_features * module.in_dim * workload.bytes_per_entry
    least = PASSING_SHARE * gradient
    if choice.route == "rebuilt":
        least = -(-least * REBUILT_SHARE // (REBUILT_SHARE - 1))
    if least > workload.memory_bytes:
        raise BadInput(
            f"options.memory_mib: {workload.memory_bytes // 2**20} is too little for one document's gradient of "
            f"{module.name}, of {-(-gradient // 2**20)} MiB; give {-(-least // 2**20)} at least"
        )
