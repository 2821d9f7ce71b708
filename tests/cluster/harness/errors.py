"""The harness's one exception: what went wrong, and what to do next."""


class HarnessError(RuntimeError):
    """A part of the test cluster could not be built or started; the message names the next step."""
