"""What Flask reads."""

from __future__ import annotations

import logging

from flask import Flask, jsonify, request
from tagged import several, written
from werkzeug.serving import make_server

app = Flask(__name__)
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)


@app.errorhandler(Exception)
def refused(error):
    return jsonify(refused=type(error).__name__), 400


def of(read):
    return jsonify(read=written(read))


@app.post("/json")
def of_json():
    return of(request.get_json())


@app.post("/any-json")
def any_json():
    return of(request.get_json(force=True))


@app.post("/form")
def form():
    return of(several(request.form.items(multi=True)))


@app.get("/query")
def query():
    return of(several(request.args.items(multi=True)))


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app)
    print(server.server_port, flush=True)
    server.serve_forever()
