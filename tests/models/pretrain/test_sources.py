"""What --audio may name: folders, manifests, shards, generated sounds; and what is refused or passed over."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from audio_files import babble, write

from aape_bench.errors import BrokenAudio, DataError, UsageError
from aape_bench.models.aape.pretrain.config import PretrainConfig
from aape_bench.models.aape.pretrain.data import Loader
from aape_bench.models.aape.pretrain.shards import expand_braces
from aape_bench.models.aape.pretrain.sources import Source, open_source


def names(source: Source) -> list[str]:
    return [source.name(clip) for clip in range(len(source))]


def audio(source: Source, clip: int, seconds: float = 9.0) -> np.ndarray:
    return source.read(clip, seconds, np.random.default_rng(0)).audio


def sound(number: int, seconds: float = 0.2) -> np.ndarray:
    return babble(seconds, 16000, seed=number)[:, 0]


def tar_of(path: Path, members: dict[str, bytes], kind: str = "w") -> Path:
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def wav(number: int) -> bytes:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, sound(number), 16000, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize("given", ["folder", "link", "relative"])
def test_a_folder_is_all_audio_below_it_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for name in ("b/2.flac", "b/10.WAV", "a.ogg", "b/c/d/é x.wav", "z.aiff"):
        write(tmp_path / "set" / name, sound(1), 16000)
    for name in (".hidden.wav", ".git/x.wav", "b/._2.flac"):
        write(tmp_path / "set" / name, sound(1), 16000, "WAV")
    (tmp_path / "set" / "notes.txt").write_text("")
    (tmp_path / "set" / "movie.m4a").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    text = {"folder": str(tmp_path / "set"), "link": "link", "relative": "set"}[given]
    source = open_source([text])
    assert [str(Path(name).relative_to(text)) for name in names(source)] == [
        *("a.ogg", "b/10.WAV", "b/2.flac", "b/c/d/é x.wav", "z.aiff")
    ]
    assert all(len(audio(source, clip)) > 3000 for clip in range(5))
    assert "1 .m4a, 1 .txt" in source.remarks[0]
    assert "1 files are of kinds that libsndfile cannot read" in source.remarks[1]


def test_links_out_of_the_folder_are_not_followed_and_none_counts_twice(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root / "a.wav", sound(1), 16000)
    write(root / ".store" / "annexed", sound(2), 16000, "WAV")
    write(tmp_path / "outside" / "o.wav", sound(3), 16000)
    (root / "again.wav").symlink_to("a.wav")
    (root / "annexed.wav").symlink_to(".store/annexed")
    (root / "annexed2.wav").symlink_to(root / ".store" / "annexed")
    (root / "outside.wav").symlink_to("../outside/o.wav")
    (root / "outside").symlink_to("../outside")
    (root / "loop").symlink_to(".")
    (root / "gone.wav").symlink_to("nowhere.wav")
    source = open_source([str(root)])
    assert [Path(name).name for name in names(source)] == ["a.wav", "annexed.wav"]
    assert any("1 links that lead out of the folder were not followed" in remark for remark in source.remarks)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_keep_anyone_waiting(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", sound(1), 16000)
    os.mkfifo(tmp_path / "pipe.wav")
    assert len(open_source([str(tmp_path)])) == 1
    with pytest.raises(BrokenAudio, match="is no regular file"):
        audio(open_source([str(tmp_path / "pipe.wav")]), 0)


def test_files_that_go_away_are_broken_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", sound(1), 16000)
    source = open_source([str(tmp_path)])
    (tmp_path / "a.wav").unlink()
    with pytest.raises(BrokenAudio, match="is missing"):
        audio(source, 0)
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(BrokenAudio, match="is no regular file"):
        audio(source, 0)


@pytest.mark.parametrize(
    ("made", "text", "says"),
    [
        ("", "", "There is no audio in"),
        ("x.txt", "", "Name another folder"),
        ("x.m4a", "", "cannot read .m4a: convert"),
        ("x.tar", "", "tar files are used where they are named"),
        (".x.wav", "", "There is no audio in"),
        ("x.txt", "x.txt", "is no folder, no manifest"),
        ("", "nowhere", "There is no folder or file"),
        ("", "nowhere.wav", "There is no folder or file"),
        ("", "nowhere.tar", "There is no tar file"),
        ("", "*.tar", "No file matches"),
        ("x.tar", "{x,*none*}.tar", "No file matches .*none"),
        ("", "x" * 300, "cannot be opened (File name too long)"),
        ("", "{1..2}" + "x" * 300 + ".tar", "cannot be opened (File name too long)"),
        ("x.tar.gz", "x.tar.gz", "is compressed"),
        ("x.tar", "x.tar", "is damaged or no tar file"),
        ("x.csv", "x.csv", "is no readable table"),
    ],
)
def test_what_is_no_audio_is_refused_in_plain_words(tmp_path: Path, made: str, text: str, says: str) -> None:
    if made:
        (tmp_path / made).write_bytes(b"" if made.endswith(".csv") else b"x" * 2000)
    with pytest.raises(DataError, match=re.escape(says).replace(r"\.\*", ".*")):
        open_source([str(tmp_path / text)])


def test_generated_audio_of_another_name_is_refused() -> None:
    for text in ("speech", "modulation:many", "modulation:0", f"modulation:{10**9 + 1}", "modulation:" + "1" * 5000):
        with pytest.raises(UsageError, match="There is no generated audio"):
            open_source([f"generated:{text}"])
    with pytest.raises(UsageError, match="No audio is named"):
        open_source([])


def test_an_empty_name_is_not_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", sound(1), 16000)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="An --audio is empty, as a variable that is not set makes it"):
        open_source([".", ""])


def test_a_manifest_names_files_spans_and_sources(tmp_path: Path) -> None:
    ramp = np.arange(32000, dtype=np.float32) / 32000
    write(tmp_path / "audio" / "a.wav", ramp, 16000, subtype="FLOAT")
    write(tmp_path / "else" / "b.wav", sound(2), 16000)
    rows = ["audio/a.wav,0.5,1.0,x,17", "audio/a.wav,,,,", f"{tmp_path}/else/b.wav,,,x,", "audio/a.wav,1.5,,,"]
    rows.append("else/b.wav,,,,")
    (tmp_path / "list.csv").write_text("\n".join(["\ufeffpath,start,end,source,label", *rows]) + "\n", encoding="utf-8")
    source = open_source([str(tmp_path / "list.csv")])
    assert [Path(name).name for name in names(source)] == ["a.wav", "a.wav", "b.wav", "a.wav", "b.wav"]
    assert np.array_equal(audio(source, 0), ramp[8000:16000])
    assert np.array_equal(audio(source, 1), ramp)
    assert np.array_equal(audio(source, 3), ramp[24000:])
    assert source.origins[0] == source.origins[2] != source.origins[1] == source.origins[3] != source.origins[4]
    assert source.files.tolist() == [0, 0, 1, 0, 1]  # the absolute path is the relative one
    # without the column clips of one file are of one source
    (tmp_path / "plain.csv").write_text("path\naudio/a.wav\nelse/b.wav\naudio/a.wav\n")
    assert open_source([str(tmp_path / "plain.csv")]).origins.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("file\na.wav\n", r"has no column path \(it has: 'file'\)"),
        ("path\n", "lists no files"),
        ('path\na.wav\n""\n', "Row 2 .* has no path"),
        ("path,start\na.wav,x\n", "Row 1 .* has no seconds in start"),
        ("path,start\na.wav,1\na.wav,-1\n", "Row 2 .* has no seconds in start"),
        ("path,end\na.wav,inf\n", "Row 1 .* has no seconds in end"),
        ("path,start,end\na.wav,0,1e308\n", "Row 1 .* has no seconds in end"),
        ("path,start,end\na.wav,2,2\n", "Row 1 .* ends before its start"),
        ("path,start,end\na.wav,,0\n", "Row 1 .* ends before its start"),
        ('path\n"a\n', "is no readable table"),
    ],
)
def test_a_manifest_with_a_slip_is_refused_by_row(tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(DataError, match=says):
        open_source([str(tmp_path / "list.csv")])


def test_a_file_under_several_names_in_a_manifest_is_one(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.wav", sound(1), 16000)
    (tmp_path / "link").symlink_to("sub")
    rows = ["sub/a.wav", "./sub//a.wav", f"{tmp_path}/sub/a.wav", "sub/../sub/a.wav", "link/a.wav", "sub/b.wav"]
    (tmp_path / "list.csv").write_text("\n".join(["path", *rows]) + "\n")
    source = open_source([str(tmp_path / "list.csv")])
    assert source.files.tolist() == source.origins.tolist() == [0, 0, 0, 0, 0, 1]
    assert [Path(name).name for name in names(source)] == ["a.wav"] * 5 + ["b.wav"]
    (tmp_path / "list.csv").write_text("path,source\nsub/a.wav,\nlink/a.wav,\nsub/b.wav,0\n./sub/b.wav,0\n")
    assert open_source([str(tmp_path / "list.csv")]).origins.tolist() == [0, 0, 1, 1]
    (tmp_path / "list.csv").write_text("path,source\nsub/a.wav,\nsub/b.wav,sub/a.wav\n")
    assert open_source([str(tmp_path / "list.csv")]).origins.tolist() == [0, 1]


def test_a_manifest_of_nullable_columns_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Parquet has them: whole numbers and nothing, for the source and for seconds."""
    import pandas as pd

    numbers = pd.array([7, None, 7, None], dtype="Int64")
    table = pd.DataFrame({"path": ["a.wav", "b.wav", "c.wav", "a.wav"], "start": numbers, "source": numbers})
    monkeypatch.setattr("aape_bench.models.aape.pretrain.listing._read_table", lambda _: table)
    (tmp_path / "list.parquet").touch()
    assert open_source([str(tmp_path / "list.parquet")]).origins.tolist() == [0, 1, 0, 2]


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe.wav\n")
    with pytest.raises(DataError, match="is no readable table"):
        open_source([str(tmp_path / "list.csv")])


def test_a_parquet_manifest_is_read_where_pyarrow_is_there(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    write(tmp_path / "a.wav", sound(1, 1.0), 16000)
    table = pd.DataFrame({"path": ["a.wav", "a.wav"], "start": [0.5, None], "end": [None, 0.25]})
    table.to_parquet(tmp_path / "list.parquet")
    source = open_source([str(tmp_path / "list.parquet")])
    assert [len(audio(source, clip)) for clip in (0, 1)] == [8000, 4000]
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="is no readable table"):
        open_source([str(tmp_path / "list.parquet")])


def test_without_pyarrow_a_parquet_manifest_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="needs pyarrow: pip install pyarrow, or name a CSV"):
        open_source([str(tmp_path / "list.parquet")])


@pytest.mark.parametrize("memory_files", [True, False])
def test_shards_are_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_files: bool) -> None:
    if not memory_files:  # as for members too large for memory
        monkeypatch.setattr("aape_bench.models.aape.pretrain.shards._MOST_IN_MEMORY", 0)
    for shard in range(3):
        members = {f"{shard}/{n:03}.{end}": wav(10 * shard + n) for n in range(2) for end in ("wav", "json")}
        members |= {f"{shard}/002.{side}.wav": wav(number) for side, number in (("left", 1), ("right", 2))}
        tar_of(tmp_path / f"s-{shard:02}.tar", members)
    for text in ("s-{00..02}.tar", "s-*.tar", "{s-00,s-01,s-02}.tar"):
        source = open_source([str(tmp_path / text)])
        assert len(source) == 12
        for clip, number in ((0, 0), (1, 1), (2, 1), (3, 2), (4, 10), (8, 20), (9, 21)):
            assert np.array_equal(audio(source, clip), sound(number))
        # members of one sample are one recording
        assert source.origins.tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]
        assert source.name(4) == f"{tmp_path / 's-01.tar'}: 1/000.wav"
    one = open_source([str(tmp_path / "s-01.tar")])
    assert len(one) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s-00.tar", "s-01.tar", "s-02.tar"]


def test_braces_expand_as_in_a_shell() -> None:
    assert expand_braces("a-{08..10}{x,y}") == [f"a-{n}{c}" for n in ("08", "09", "10") for c in "xy"]
    assert expand_braces("{2..0}{") == ["2{", "1{", "0{"]
    assert expand_braces("plain{}") == ["plain{}"]
    for text in ("{0..99999999999}", "{0..999}{0..999}{0..999}", "{0.." + "1" * 5000 + "}"):
        with pytest.raises(DataError, match="names more than"):
            expand_braces(text)


def test_shards_from_a_hostile_world(tmp_path: Path) -> None:
    """Nothing is unpacked, links and odd members are passed over, a damaged shard gives what is before the damage."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(("../../up.wav", "/etc/abs.wav", "a/.hidden.wav", "no.txt")):
            member = tarfile.TarInfo(name)
            member.size = len(wav(number))
            archive.addfile(member, io.BytesIO(wav(number)))
        for name, kind in (("link.wav", tarfile.SYMTYPE), ("hard.wav", tarfile.LNKTYPE), ("dev.wav", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("\x1b[31mred\n.wav")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"noise"))
    source = open_source([str(path)])
    shown = [name.rpartition(": ")[2] for name in names(source)]
    assert shown == ["../../up.wav", "/etc/abs.wav", r"\x1b[31mred\n.wav"]
    assert np.array_equal(audio(source, 1), sound(1))
    with pytest.raises(BrokenAudio, match="is not audio"):
        audio(source, 2)
    assert source.remarks == ()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]

    whole = tar_of(tmp_path / "b.tar", {f"{n}.wav": wav(n) for n in range(4)}).read_bytes()
    third = 2 * len(whole[: whole.index(b"1.wav")])
    damaged = {
        "cut": (whole[: third + 700], "a member is longer than the file"),
        "header": (whole[: third + 3] + b"\xff" + whole[third + 4 :], "a damaged header"),
    }
    for content, what in damaged.values():
        (tmp_path / "b.tar").write_bytes(content)
        source = open_source([str(tmp_path / "b.tar")])
        assert len(source) == 2
        assert f"is damaged after 2 members ({what})" in source.remarks[0]
        assert np.array_equal(audio(source, 1), sound(1))

    (tmp_path / "b.tar").write_bytes(whole)
    source = open_source([str(tmp_path / "b.tar")])
    (tmp_path / "b.tar").write_bytes(whole[: third + 700])
    with pytest.raises(BrokenAudio, match="was cut since training began"):
        audio(source, 3)


def test_a_header_of_gigabytes_in_a_tar_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match=r"is damaged or no tar file .a header is too large"):
        open_source([str(tmp_path / "a.tar")])


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no alarm would end it here")
@pytest.mark.parametrize("size", [-512, -1536, -1])
def test_a_tar_that_leads_back_ends(tmp_path: Path, size: int) -> None:
    def too_long(*_: object) -> None:
        raise TimeoutError

    whole = tar_of(tmp_path / "a.tar", {"0.wav": wav(0)}).read_bytes()
    member = tarfile.TarInfo("1.wav")
    member.size = size
    first = len(wav(0)) + -len(wav(0)) % 512 + 512
    (tmp_path / "a.tar").write_bytes(whole[:first] + member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    try:
        source = open_source([str(tmp_path / "a.tar")])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert len(source) == 1
    assert "is damaged after 1 members (a damaged header)" in source.remarks[0]


def test_a_tar_of_headers_upon_headers_is_damaged(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type = tarfile.GNUTYPE_LONGNAME
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) * 3000 + bytes(1024))
    with pytest.raises(DataError, match="is damaged or no tar file"):
        open_source([str(tmp_path / "a.tar")])


def test_a_file_named_by_several_is_of_one_recording(tmp_path: Path) -> None:
    for name in ("a.wav", "sub/b.wav", "sub/c.wav"):
        write(tmp_path / "set" / name, sound(1), 16000)
    tar_of(tmp_path / "t.tar", {"x.1.wav": wav(7), "x.2.wav": wav(8), "y.wav": wav(9)})
    (tmp_path / "link").symlink_to("set")
    (tmp_path / "list.csv").write_text("path,source\nset/sub/c.wav,x\nset/a.wav,x\nelse.wav,\n")

    def origins(*texts: str) -> list[int]:
        source = open_source([str(tmp_path / text) if ":" not in text else text for text in texts])
        assert [remark for remark in source.remarks if "named by more than one --audio" in remark]
        return source.origins.tolist()

    assert origins("set", "set") == [0, 1, 2, 0, 1, 2]
    assert origins("set", "link/sub", "set/a.wav") == [0, 1, 2, 1, 2, 0]
    assert origins("t.tar", "set", "{t,t}.tar") == [0, 0, 1, 2, 3, 4, 0, 0, 1]
    # the list says that two of the folder's files are of one recording
    assert origins("generated:modulation:2", "set", "list.csv") == [0, 1, 2, 3, 2, 2, 2, 4]
    assert open_source([str(tmp_path / "set"), str(tmp_path / "t.tar")]).remarks == ()
    assert len(open_source([str(tmp_path / "{t,t,*}.tar")])) == 3


def test_sources_stand_side_by_side(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "a" / f"{number}.wav", sound(number), 16000, subtype="FLOAT")
    tar_of(tmp_path / "t.tar", {"x.wav": wav(7)})
    (tmp_path / "list.csv").write_text("path,start\na/1.wav,\na/1.wav,0.1\n")
    texts = [str(tmp_path / "a"), "generated:modulation:5", str(tmp_path / "t.tar"), str(tmp_path / "list.csv")]
    source = open_source(texts)
    assert len(source) == 3 + 5 + 1 + 2
    assert source.generators == ("aape_bench.tasks.modulation.generated",)
    for clip, number in ((2, 2), (8, 7), (9, 1)):
        assert np.array_equal(audio(source, clip), sound(number))
    assert len(audio(source, 5, 0.5)) == 8000
    assert source.origins.tolist() == [*range(9), 1, 1]  # the list's is the folder's
    # another order, another list
    assert open_source(texts[::-1]).digest != source.digest == open_source(texts).digest


def test_the_digest_covers_names_and_spans_not_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for name in ("a.wav", "b.wav"):
            write(tmp_path / folder / name, sound(1), 16000)
        (tmp_path / folder / "list.csv").write_text("path,start\na.wav,0\n")
    digests = [open_source([str(tmp_path / folder)]).digest for folder in ("one", "two")]
    assert digests[0] == digests[1]
    lists = [open_source([str(tmp_path / folder / "list.csv")]).digest for folder in ("one", "two")]
    (tmp_path / "two" / "list.csv").write_text("path,start\na.wav,0.1\n")
    write(tmp_path / "two" / "c.wav", sound(1), 16000)
    assert open_source([str(tmp_path / "two")]).digest != digests[0]
    assert open_source([str(tmp_path / "two" / "list.csv")]).digest != lists[1] == lists[0]


def test_shards_train_like_the_files_in_them(tmp_path: Path) -> None:
    """Same clips in the same order: the same batches and the same hashes."""
    for number in range(4):
        (tmp_path / f"{number}.wav").write_bytes(wav(number))
    tar_of(tmp_path / "t.tar", {f"{number}.wav": wav(number) for number in range(4)})
    config = PretrainConfig(preset="smoke", batch=4, clip_seconds=0.1).resolved()
    loaders = [Loader(open_source([str(tmp_path / text)]), config, 0) for text in ("", "t.tar")]
    batches = []
    for loader in loaders:
        with closing(loader.batches(0)) as found:
            batches.append([batch.audio for batch in itertools.islice(found, 3)])
    assert all((a == b).all() for a, b in zip(*batches, strict=True))
    assert loaders[0].trained.card() == loaders[1].trained.card()
    assert len(loaders[0].trained.hashes) == 8
