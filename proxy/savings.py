"""What a request saved: nobody paid the provider, or waited for it."""

from __future__ import annotations

from proxy.models import Event, Outcome

# Outcomes in which the provider was not asked on this request's account.
SPARED = frozenset({Outcome.HIT, Outcome.STALE, Outcome.COLLAPSED})


def settle(event: Event) -> None:
    """Say in the event what was saved. Tokens are those the provider would have counted.

    Of an answer of which a part was stored, whoever put it together has said it.
    """
    if event.outcome in SPARED:
        event.saved_tokens = (event.input_tokens or 0) + (event.output_tokens or 0)
        event.saved_usd = event.usd or 0.0
        if event.made_seconds > event.seconds:
            event.saved_seconds = round(event.made_seconds - event.seconds, 6)
