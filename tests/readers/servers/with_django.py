"""What Django reads."""

from __future__ import annotations

import json
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from tagged import several, written

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of nobody", LOGGING_CONFIG=None,
    DATA_UPLOAD_MAX_MEMORY_SIZE=8_000_000,
)  # fmt: skip
django.setup()


def lists(given):
    return several((name, value) for name, values in given.lists() for value in values)


def reading(read):
    def view(request):
        try:
            return JsonResponse({"read": written(read(request))})
        except Exception as error:
            return JsonResponse({"refused": type(error).__name__}, status=400)

    return view


urlpatterns = [
    path("any-json", reading(lambda request: json.loads(request.body))),
    path("form", reading(lambda request: lists(request.POST))),
    path("last", reading(lambda request: request.POST.dict())),
    path("query", reading(lambda request: lists(request.GET))),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *told):
        pass


if __name__ == "__main__":
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
