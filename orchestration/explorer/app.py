"""The explorer's server: addresses in, pages out. Everything shown is read from the lake when it is asked for."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from polars.exceptions import ColumnNotFoundError

from assets.findings.report import numerals
from assets.findings.report.evidence_tables import method_name
from compute.errors import BadInput
from orchestration.explorer import document_page, guard, pages, query_page, statements, study_page
from orchestration.explorer.address import address
from orchestration.explorer.drawing import Drawings
from orchestration.explorer.query_page import Asked
from orchestration.explorer.searching import Indexing
from orchestration.explorer.study_page import Filters
from orchestration.results import Results
from orchestration.results.printing import printable, spurious

HERE = Path(__file__).parent
LONGEST = 8_000
Text = Annotated[str, Query(max_length=LONGEST)]
Choice = Annotated[str | None, Query(max_length=LONGEST)]


def explorer(results: Results, cache: Path) -> FastAPI:
    """The application that shows the results of one lake; indexes for its search are kept under `cache`."""
    # altair looks whether pandas is loaded, and breaks while another request's thread is loading it.
    import pandas  # noqa: F401

    app = FastAPI(title="Headwater explorer", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    _tell_what_is_wrong(app)
    _guard(app)  # last, and so around all other answers
    indexing = Indexing(cache)
    _add_pages(app, results, indexing, Drawings())
    _add_files(app, results, indexing)
    return app


def _guard(app: FastAPI) -> None:
    @app.middleware("http")
    async def guarded(request: Request, call_next) -> Response:
        if sentence := guard.refusal(request):
            return Response(f"{sentence}\n", 403, guard.HEADERS, "text/plain; charset=utf-8")
        response = await call_next(request)
        for name, value in guard.HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _tell_what_is_wrong(app: FastAPI) -> None:
    """A sentence on a page of its own, also where Headwater itself is at fault."""

    @app.exception_handler(BadInput)
    def told(request: Request, error: BadInput) -> HTMLResponse:
        return _page("message.html", 404, title="This cannot be shown", sentence=str(error))

    @app.exception_handler(404)
    def nowhere(request: Request, error: Exception) -> HTMLResponse:
        return _page("message.html", 404, title="Not found", sentence=f"there is no page {request.url.path}")

    @app.exception_handler(RequestValidationError)
    def unreadable(request: Request, error: Exception) -> HTMLResponse:
        return _page("message.html", 404, title="Not found", sentence="the address is not one of the explorer's")

    @app.exception_handler(ColumnNotFoundError)
    def of_another_version(request: Request, error: Exception) -> HTMLResponse:
        sentence = f"another version of Headwater wrote a table of this study ({error}); run the study again"
        return _page("message.html", 500, title="This cannot be shown", sentence=sentence)

    @app.middleware("http")
    async def own_mistakes(request: Request, call_next) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            logging.getLogger(__name__).exception("%s cannot be shown", request.url.path)
            sentence = f"Headwater made a mistake ({type(error).__name__}); the terminal in which it runs tells more"
            return _page("message.html", 500, title="This cannot be shown", sentence=sentence)


def _add_pages(app: FastAPI, results: Results, indexing: Indexing, drawings: Drawings) -> None:
    @app.get("/")
    def studies() -> HTMLResponse:
        shown = study_page.studies(_fresh(results))
        return _page("studies.html", title="Studies", studies=shown, sql=statements.STUDIES)

    @app.get("/study")
    def study(study: Text, filters: Annotated[Filters, Depends(_filters)]) -> HTMLResponse:
        return _page("study.html", title=f"Study {study}", page=study_page.study(_fresh(results), study, filters))

    @app.get("/query")
    def query(asked: Annotated[Asked, Depends(_asked)], filters: Annotated[Filters, Depends(_filters)]) -> HTMLResponse:
        shown = query_page.query(_fresh(results), asked, filters)
        return _page("query.html", title=f"{asked.query} · {asked.study}", page=shown)

    @app.get("/document")
    def document(
        study: Text, document: Text, method: Choice = None, order: Text = "score", all: Choice = None
    ) -> HTMLResponse:
        shown = document_page.document(_fresh(results), study, document, method, order, bool(all))
        return _page("document.html", title=document, page=shown)

    @app.get("/search")
    def search(study: Text, words: Text = "") -> HTMLResponse:
        shown = pages.search(_fresh(results), indexing, study, words)
        return _page("search.html", title=f"Search in {study}", page=shown)

    @app.get("/findings")
    def findings(study: Text) -> HTMLResponse:
        return _page("findings.html", title=f"Findings of {study}", page=pages.findings(_fresh(results), study))

    @app.get("/figure")
    def figure(study: Text, name: Text) -> Response:
        return Response(drawings.png(_fresh(results), study, name), media_type="image/png")

    @app.get("/report")
    def report(study: Text) -> HTMLResponse:
        return HTMLResponse(pages.report(_fresh(results), study), headers=guard.OF_THE_REPORT)


def _add_files(app: FastAPI, results: Results, indexing: Indexing) -> None:
    from orchestration.explorer import exports

    @app.get("/rows/studies")
    def studies(form: Text) -> Response:
        return exports.studies(_fresh(results), form).response()

    @app.get("/rows/study")
    def queries(study: Text, form: Text, filters: Annotated[Filters, Depends(_filters)]) -> Response:
        return exports.queries(_fresh(results), study, filters, form).response()

    @app.get("/rows/query")
    def ranking(form: Text, asked: Annotated[Asked, Depends(_asked)]) -> Response:
        return exports.ranking(_fresh(results), asked, form).response()

    @app.get("/rows/document")
    def document(study: Text, document: Text, form: Text) -> Response:
        return exports.document(_fresh(results), study, document, form).response()

    @app.get("/rows/search")
    def search(study: Text, form: Text, words: Text = "") -> Response:
        return exports.search(_fresh(results), indexing, study, words, form).response()

    @app.get("/rows/finding")
    def finding(study: Text, name: Text, form: Text) -> Response:
        return exports.finding(_fresh(results), study, name, form).response()


def _filters(
    kind: Choice = None,
    task: Choice = None,
    right: Choice = None,
    leading: Choice = None,
    origin: Choice = None,
    words: Choice = None,
) -> Filters:
    return Filters(kind, task, right, leading, origin, words)


def _asked(
    study: Text,
    query: Text,
    method: Choice = None,
    ranking: Text = "normed",
    end: Text = "top",
    source: Choice = None,
    document: Choice = None,
    beside: Choice = None,
    beside_method: Choice = None,
) -> Asked:
    return Asked(study, query, method, ranking, end, source, document, beside, beside_method)


def _fresh(results: Results) -> Results:
    """What the lake holds now, and not when the explorer was started."""
    return Results(results.lake)


def _page(template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    return HTMLResponse(_templates().get_template(template).render(**shown), status)


@cache
def _templates():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": numerals.number, "method_name": method_name, "plain": printable}
    environment.globals |= {"address": address, "plural": numerals.plural, "spurious": spurious}
    return environment
