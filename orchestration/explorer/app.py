"""The explorer's server: addresses in, pages out. Everything shown is read from the lake when it is asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from polars.exceptions import ColumnNotFoundError

from assets.findings.report import numerals
from assets.findings.report.evidence_tables import method_name
from compute.errors import BadInput
from orchestration.explorer import guard, pages
from orchestration.explorer.address import address
from orchestration.explorer.searching import Indexing
from orchestration.results import Results

HERE = Path(__file__).parent
Text = Annotated[str, Query(max_length=2_000)]
Choice = Annotated[str | None, Query(max_length=2_000)]


def explorer(results: Results, cache: Path) -> FastAPI:
    """The application that shows the results of one lake; indexes for its search are kept under `cache`."""
    # altair looks whether pandas is loaded, and breaks while another request's thread is loading it.
    import pandas  # noqa: F401

    indexing = Indexing(cache)
    app = FastAPI(title="Headwater explorer", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")

    @app.middleware("http")
    async def guarded(request: Request, call_next) -> Response:
        if sentence := guard.refusal(request):
            return Response(f"{sentence}\n", 403, guard.HEADERS, "text/plain; charset=utf-8")
        response = await call_next(request)
        for name, value in guard.HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(BadInput)
    def told(request: Request, error: BadInput) -> HTMLResponse:
        return _page("message.html", 404, title="Not found", sentence=str(error))

    @app.exception_handler(404)
    def nowhere(request: Request, error: Exception) -> HTMLResponse:
        return _page("message.html", 404, title="Not found", sentence=f"there is no page {request.url.path}")

    @app.exception_handler(RequestValidationError)
    def unreadable(request: Request, error: Exception) -> HTMLResponse:
        return _page("message.html", 404, title="Not found", sentence="the address is not one of the explorer's")

    @app.exception_handler(ColumnNotFoundError)
    def of_another_version(request: Request, error: Exception) -> HTMLResponse:
        sentence = f"another version of Headwater wrote a table of this study ({error}); run the study again"
        return _page("message.html", 500, title="Cannot be shown", sentence=sentence)

    @app.get("/")
    def studies() -> HTMLResponse:
        return _page("studies.html", title="Studies", studies=pages.studies(_fresh(results)))

    @app.get("/study")
    def study(study: Text, kind: Choice = None, task: Choice = None, right: Choice = None, words: Choice = None):
        shown = pages.study(_fresh(results), study, kind=kind, task=task, right=right, words=words)
        return _page("study.html", title=f"Study {study}", page=shown)

    @app.get("/query")
    def query(
        study: Text,
        query: Text,
        method: Choice = None,
        ranking: Text = "normed",
        end: Text = "top",
        document: Choice = None,
        beside: Choice = None,
    ):
        shown = pages.query(_fresh(results), study, query, method, ranking, end, document, beside)
        return _page("query.html", title=f"{query} · {study}", page=shown)

    @app.get("/document")
    def document(study: Text, document: Text):
        return _page("document.html", title=document, page=pages.document(_fresh(results), study, document))

    @app.get("/search")
    def search(study: Text, words: Text = ""):
        return _page(
            "search.html", title=f"Search in {study}", page=pages.search(_fresh(results), indexing, study, words)
        )

    @app.get("/findings")
    def findings(study: Text):
        return _page("findings.html", title=f"Findings of {study}", page=pages.findings(_fresh(results), study))

    @app.get("/figure")
    def figure(study: Text, name: Text):
        return Response(pages.figure(_fresh(results), study, name), media_type="image/png")

    @app.get("/report")
    def report(study: Text):
        return HTMLResponse(pages.report(_fresh(results), study), headers=guard.OF_THE_REPORT)

    @app.get("/rows")
    def rows(study: Text, query: Text, form: Text, method: Choice = None, ranking: Text = "normed", end: Text = "top"):
        content, kind, name = pages.rows(_fresh(results), study, query, method, ranking, end, form)
        return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    return app


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
    environment.filters |= {"number": numerals.number, "method_name": method_name}
    environment.globals |= {"address": address, "plural": numerals.plural}
    return environment
