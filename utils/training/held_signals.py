"""Ctrl-C and SIGTERM at moments that suit: what has begun ends first."""

import signal

from utils.process import STOPPED


class HeldSignals:
    """Within the block, Ctrl-C and SIGTERM wait until `raise_stop` is called; a second one comes through at once."""

    def __enter__(self):
        self.received, self.before = None, {}
        for number in STOPPED:
            if callable(signal.getsignal(number)):
                self.before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        """Let signals through from now on."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hold(self):
        """Hold them back again after `release`."""
        for number in self.before:
            signal.signal(number, self._hold)

    def raise_stop(self, number=None):
        """Do now what the signal that was held back would have done, or one that another process received."""
        self.release()
        number = number or self.received
        if number in self.before:
            self.before[number](number, None)
        raise KeyboardInterrupt  # a background job ignores Ctrl-C; another process didn't

    def _hold(self, number, frame):
        if self.received:
            self.release()
            self.before[number](number, frame)
        self.received = number
