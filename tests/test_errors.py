import sys

from torch.utils.data import DataLoader, Dataset

from detection.errors import UserError, command_line


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError("a.jpg: the file is truncated.")


def test_the_sentence_survives_a_worker_process():
    try:
        list(DataLoader(Broken(), num_workers=1))
    except UserError as error:
        assert str(error) == "a.jpg: the file is truncated."


def test_a_tool_ends_with_exit_code_2_and_one_line(capsys):
    @command_line
    def main():
        raise UserError("x: is wrong.")

    assert main() == 2
    assert capsys.readouterr().err == "error: x: is wrong.\n"


def test_closed_streams_keep_nothing(monkeypatch):
    """As after `>&- 2>&-`, where Python has None in their places."""

    @command_line
    def main():
        print("a", "terminal" if sys.stdout.isatty() else "file")
        raise UserError("x: is wrong.")

    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert main() == 2


def test_other_errors_are_not_hidden():
    @command_line
    def main():
        raise ValueError

    try:
        main()
    except ValueError:
        return
    raise AssertionError
