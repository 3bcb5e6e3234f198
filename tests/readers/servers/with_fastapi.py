"""What Starlette and FastAPI read."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from tagged import several, written

app = FastAPI()


class Order(BaseModel):
    to: Any = None
    amount: Any = None
    note: Any = None
    role: Any = None
    item: Any = None


@app.exception_handler(Exception)
@app.exception_handler(RequestValidationError)
async def refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"refused": type(error).__name__}, 400)


def of(read: object) -> JSONResponse:
    return JSONResponse({"read": written(read)})


@app.post("/any-json")
async def any_json(request: Request) -> JSONResponse:
    return of(await request.json())


@app.post("/any-json-of-text")
async def any_json_of_text(request: Request) -> JSONResponse:
    import json

    return of(json.loads((await request.body()).decode()))


@app.post("/form")
async def form(request: Request) -> JSONResponse:
    async with request.form() as found:
        return of(several(found.multi_items()))


@app.post("/model")
async def model(order: Order) -> JSONResponse:
    return of({name: getattr(order, name) for name in order.model_fields_set})


@app.post("/dict")
async def as_dict(order: dict) -> JSONResponse:
    return of(order)


@app.post("/fields")
async def fields(
    to: str | None = Form(None), amount: str | None = Form(None), note: str | None = Form(None),
    role: str | None = Form(None), item: str | None = Form(None),
) -> JSONResponse:  # fmt: skip
    given = {"to": to, "amount": amount, "note": note, "role": role, "item": item}
    return of({name: value for name, value in given.items() if value is not None})


@app.get("/query")
async def query(request: Request) -> JSONResponse:
    return of(several(request.query_params.multi_items()))


@app.get("/parameters")
async def parameters(
    to: str | None = None, amount: str | None = None, note: str | None = None, role: str | None = None,
    item: str | None = None,
) -> JSONResponse:  # fmt: skip
    given = {"to": to, "amount": amount, "note": note, "role": role, "item": item}
    return of({name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])
