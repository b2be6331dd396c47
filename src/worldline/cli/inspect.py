"""`worldline inspect`: what an input holds, and what of it a reconstruction will use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from worldline.io.input_facts import input_facts
from worldline.io.sensors.description import described
from worldline.io.sensors.log_files import is_log


def run(
    source: Annotated[Path, arg(metavar="INPUT"), Positional],
    /,
    *,
    topic: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="ROLE=NAME")] = (),
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what a log, a video or a folder holds; of a log every topic, and which will be used for what and why.

    Args:
        source: a log (.bag, .mcap, .db3, folder of a ROS 2 bag), a video file, or a folder of images
        topic: use this topic for camera, camera_info, depth, imu, radar, lidar or pose (none: use no topic)
        as_json: print JSON
    """
    log = is_log(source)
    facts = described(source, topic) if log else input_facts(source)
    print(json.dumps(facts, indent=1) if as_json else "\n".join(_log_lines(facts) if log else _lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    return [f"{facts['path']}: {facts['kind']}, {facts['says']}"]


def _log_lines(facts: dict[str, Any]) -> list[str]:
    topics = facts["topics"]
    head = (
        f"{facts['path']}: {facts['kind']} of {facts['begins']}, {facts['seconds']:.1f} s, {facts['messages']} "
        f"messages on {len(topics)} topics"
    )
    rows = [_row(topic) for topic in topics]
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    table = [f"  {row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]}".rstrip() for row in rows]
    used = [f"  {role['role']:<12}{role['topic']} ({role['why']}): {role['says']}" for role in facts["roles"]]
    return [
        head,
        *table,
        "used as",
        *(used or ["  nothing"]),
        *(f"  note: {n}" for n in facts["notes"]),
        _verdict(facts),
    ]


def _row(topic: dict[str, Any]) -> tuple[str, str, str]:
    if not topic["messages"]:
        return topic["name"], topic["type"], "no messages"
    span = f"{topic['first_s']:.2f} to {topic['last_s']:.2f} s"
    detail = f"  {topic['detail']}" if topic["detail"] else ""
    return topic["name"], topic["type"], f"{topic['messages']:>6} at {topic['rate_hz']:.4g} Hz, {span}{detail}"


def _verdict(facts: dict[str, Any]) -> str:
    cameras = [role["topic"] for role in facts["roles"] if role["role"] == "camera"]
    if not cameras:
        return "no camera: this log can give IMU and radar readings to a video, but cannot be reconstructed by itself"
    return f"worldline reconstruct will make its video from {cameras[0]}"
