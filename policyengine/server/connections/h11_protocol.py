"""HTTP/1.1 with h11: used if httptools is not installed, and for connections whose client offered an upgrade."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyengine.server.connections.connection_table import ConnectionStage
from policyengine.server.connections.http_connection import HttpConnection


class H11Connection(HttpConnection, H11Protocol):
    """A connection parsed by h11."""

    @property
    def receiving(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])

    @property
    def stage(self) -> ConnectionStage:
        if self.lingered is not None:
            return ConnectionStage.IDLE
        if self.conn.their_state is h11.IDLE:
            first = self.unproved or self.conn.trailing_data[0]
            return ConnectionStage.HEAD if first else ConnectionStage.IDLE
        if self.flow.write_paused:
            return ConnectionStage.UNREAD
        if self.conn.their_state is h11.SEND_BODY:
            return ConnectionStage.BODY
        return ConnectionStage.BUSY

    def data_received(self, data: bytes) -> None:
        if self.passed_over(data):
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.began = self.table.now
        self.held += len(data)
        super().data_received(data)
        if self.held:
            self.account()
        if self.cycle is None:
            return
        if self.unproved and self.conn.their_state is not h11.SEND_BODY:
            self.unproved = False
            self.table.prove(self)
        if self.table.draining:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.held = 0
        self.account()
        self._unset_keepalive_if_required()
