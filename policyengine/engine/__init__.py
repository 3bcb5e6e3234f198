"""The engine: loads policies, decides, records and explains."""

from policyengine.engine.engine import Engine as Engine
