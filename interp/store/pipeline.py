"""One background thread that runs tasks in order, so that writing overlaps the forward pass."""

import threading
from collections import deque
from collections.abc import Callable


class Pipeline:
    """Runs submitted tasks in order in one thread; holds at most `limit` bytes of waiting tasks.

    The first exception of a task stops the rest and is raised by the next `submit` or by `close`.
    """

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit = limit
        self._tasks: deque[tuple[Callable[[], object], int]] = deque()
        self._waiting = 0
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="interp-store", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        # The caller's own error is the one to report: drop what has not started.
        with self._changed:
            self._tasks.clear()
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def submit(self, task: Callable[[], object], size: int = 0) -> None:
        """Queue a task that keeps `size` bytes alive; waits while the queue is full."""
        with self._changed:
            while self._waiting and self._waiting + size > self._limit and self._error is None:
                self._changed.wait()
            self._raise()
            self._tasks.append((task, size))
            self._waiting += size
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait for all tasks; raise what one of them raised."""
        done = threading.Event()
        self.submit(done.set)
        while not done.wait(0.05):
            with self._changed:
                self._raise()

    def close(self) -> None:
        """Wait for all tasks and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._closed:
                    self._changed.wait()
                if not self._tasks:
                    return
                task, size = self._tasks.popleft()
            try:
                task()
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._tasks.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting -= size
                self._changed.notify_all()
            del task
