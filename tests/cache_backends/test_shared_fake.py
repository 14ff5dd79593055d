"""The contract of a shared cache, in a dict: the suite for it must hold there first."""

from __future__ import annotations

import pytest

from tests.cache_backends.shared_conformance import SharedConformance
from tests.fakes.clock import FakeClock
from tests.fakes.shared_cache import FakeSharedCache, World


class TestFakeSharedCache(SharedConformance):
    @pytest.fixture
    def world(self) -> World:
        return World()

    @pytest.fixture
    def cache(self, world: World, clock: FakeClock) -> FakeSharedCache:
        return FakeSharedCache(world, clock)

    @pytest.fixture
    def other(self, world: World, clock: FakeClock) -> FakeSharedCache:
        return FakeSharedCache(world, clock)
