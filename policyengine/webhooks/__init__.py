"""Webhooks about approvals: messages to other systems and chats, sent at least once; `verify_webhook` is for their
receivers."""

from policyengine.webhooks.verify import WebhookForgedError, WebhookRepeatedError, verify_webhook

__all__ = ["WebhookForgedError", "WebhookRepeatedError", "verify_webhook"]
