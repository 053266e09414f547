"""A process that dies while it saves a ticket leaves the old one, the new one, or none."""

from faults import Disk

from tf_lottery.errors import TicketError
from tf_lottery.tickets import Ticket


class Crash(BaseException):
    """What no code of the package catches."""


def crash():
    raise Crash


def save_and_die(ticket, path, n):
    """False if it was saved before the n-th thing that is written."""
    try:
        with Disk(path.parent, n, crash).watched():
            ticket.save(path)
    except Crash:
        return True
    return False


def test_a_new_ticket_is_there_whole_or_not_at_all(rewound, tmp_path):
    n = 1
    while save_and_die(rewound, tmp_path / str(n) / "ticket", n):
        path = tmp_path / str(n) / "ticket"
        assert not path.exists(), n
        rewound.save(path)
        assert Ticket.load(path).digest == rewound.digest
        n += 1
    assert n > 10


def test_over_an_old_ticket_a_mixture_is_refused(ticket, rewound, tmp_path):
    n, found = 1, []
    while True:
        path = tmp_path / str(n) / "ticket"
        ticket.save(path)
        if not save_and_die(rewound, path, n):
            break
        try:
            found.append(Ticket.load(path).digest)
        except TicketError:
            found.append("refused")
        rewound.save(path)
        assert Ticket.load(path).digest == rewound.digest
        n += 1
    # All is written beside the old ticket; only then are files replaced, one by one.
    assert len(found) > 10
    assert set(found) <= {ticket.digest, "refused"}
    assert set(found[:-2]) == {ticket.digest}
