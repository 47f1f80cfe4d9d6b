"""Work on a GPU that is always the same, launched as one: recorded as a CUDA graph, and replayed.

A step of decoding is some hundred small kernels, and launching them one by one takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

T = TypeVar("T")


class Recordings:
    """Graphs of one memory pool, by the shapes of what they work on.

    What is recorded reads and writes tensors that stay where they are; what it returns is overwritten by the next
    replay. The pool ends with the last of its graphs, so that none of them may go before another is recorded.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.warm: set[Hashable] = set()
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, object]] = {}

    def run(self, shapes: Hashable, work: Callable[[], T]) -> T:
        """Does the work: as it is for the first time, from a recording ever after.

        The first time is real work too, done on a stream aside, and makes what kernels and libraries need once.
        """
        if shapes not in self.warm:
            self.warm.add(shapes)
            return _aside(work)
        if shapes not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):  # which runs nothing
                self.graphs[shapes] = graph, work()
        graph, result = self.graphs[shapes]
        graph.replay()
        return result  # type: ignore[return-value]


def _aside(work: Callable[[], T]) -> T:
    stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = work()
    here.wait_stream(stream)
    return result
