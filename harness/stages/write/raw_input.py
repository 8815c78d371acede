"""Check the raw files of a write stage against the plan, and record the files that were used."""

from collections.abc import Callable, Iterable

from harness.config.data import DataSettings
from harness.config.inputs import Images
from harness.runner import file_records
from harness.runner.context import StageContext, Stopped
from harness.runner.file_records import FileRecord
from writers.errors import UserError
from writers.raw_files import DigestedFiles, FileState, containers, walk
from writers.source import Example, Source


class RawInput:
    """Raw files of one dataset, with sizes and modification times from before they are read."""

    def __init__(self, data: DataSettings, expected: str, context: StageContext) -> None:
        """Compare the files with the plan.

        Args:
            data: the dataset.
            expected: digest of the contents of its raw files when the stage was planned, from
                `harness.runner.file_records.contents_of_images`.
            context: context of the write stage.

        Raises:
            UserError: the contents have changed since the stage was planned.
        """
        self._images = Images(data)
        self._path = self._images.path(context.raw)
        self._runs = context.folder.parents[2]
        self._contents = expected
        self._key = context.folder.name
        self._is_stopped = context.stop_requested
        self._files: dict[str, FileState] = {}
        try:
            self._files = dict(walk(self._path))
            found = file_records.contents_of_images(
                self._images, context.raw, self._runs, files=self._files
            )
        except OSError:
            return  # opening the dataset will raise an error with the reason
        if found != expected:
            raise UserError(
                f"The {self._images.label} have changed since this run was planned.",
                "Run the same command again.",
            )

    def digest_reads(self, source: Source) -> DigestedFiles:
        """Make the source store the digest of each file that is read, and return this store."""
        source.files = files = DigestedFiles(source.files)
        return files

    def is_recorded(self, source: Source, examples: Iterable[Example]) -> bool:
        """Return True if the digests of all files of these images are recorded."""
        records = file_records.read_records(self._images.name, self._runs, self._contents)
        return self._used(source, examples) <= records.keys()

    def record(
        self,
        source: Source,
        read: DigestedFiles,
        examples: Iterable[Example],
        on_read: Callable[[int], None],
    ) -> None:
        """Record size, time and digest of every file that was used and is not recorded yet.

        A file whose digest is unknown is read, such as an archive, or an image that was copied from
        another `.beton` file.

        Args:
            source: the dataset.
            read: digests of the files that were read while writing.
            examples: images in the stage's betons.
            on_read: called with the number of files to read before reading starts.

        Raises:
            Stopped: the stage was asked to stop.
        """
        known = file_records.read_records(self._images.name, self._runs, self._contents)
        names = self._used(source, examples) - known.keys()
        digests = {}
        for name in names & read.digests.keys():
            num_bytes, digest = read.digests[name]
            if num_bytes == self._files[name].num_bytes:  # else the source has re-encoded it
                digests[name] = digest
        if unread := names - digests.keys():
            on_read(len(unread))
            digests |= file_records.digests_of(self._path, unread, self._is_stopped)
            if self._is_stopped():
                raise Stopped
        records = {name: FileRecord(self._files[name], digest) for name, digest in digests.items()}
        file_records.write_records(
            self._images.name, self._runs, self._contents, self._key, records
        )

    def _used(self, source: Source, examples: Iterable[Example]) -> frozenset[str]:
        keys = {source.prefix + example.key for example in examples}
        return containers(source, self._files) | (keys & self._files.keys())
