"""The life of a call as a picture, drawn from the table that the core obeys."""

from __future__ import annotations

from gateway.states import OVER, TRANSITIONS, CallState


def mermaid() -> str:
    """TRANSITIONS as a Mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[CallState, CallState], list[str]] = {}
    for (state, event), target in TRANSITIONS.items():
        arrows.setdefault((state, target), []).append(event.value)
    lines = ["stateDiagram-v2", f"    [*] --> {CallState.OPENING.name}: socket accepted"]
    for (state, target), events in arrows.items():
        lines.append(f"    {state.name} --> {target.name}: {' / '.join(events)}")
    lines += [f"    {state.name} --> [*]" for state in CallState if state in OVER]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
