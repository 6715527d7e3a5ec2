"""utils/data/session_lines.py: sessions of item ids, however the text comes; test_recommend.py has more."""

from utils.data import session_lines


def test_lines_have_their_numbers_and_ids_that_are_no_longer_escaped(tmp_path, monkeypatch):
    text = "\ufeffred\\{20}shoes p1\r\n\n \n" + "".join(f"p{number}\tp\n" for number in range(200)) + "the last"
    (tmp_path / "sessions.txt").write_bytes(text.encode())
    many = [(4 + number, [f"p{number}", "p"]) for number in range(200)]
    expected = [(1, ["red shoes", "p1"]), (2, []), (3, []), *many, (204, ["the", "last"])]
    for size in 1 << 16, 7:
        monkeypatch.setattr(session_lines, "READ_BYTES", size)
        assert sum(session_lines.read_lines(tmp_path / "sessions.txt"), []) == expected
