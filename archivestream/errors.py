"""The exception classes.

Each one derives from `ArchiveError` and from the built-in or standard-library exception that users
already catch, so ``except KeyError`` and ``except zipfile.BadZipFile`` go on working.
"""

from __future__ import annotations

from zipfile import BadZipFile


class ArchiveError(Exception):
    """Base of every error that archivestream raises about an archive.

    Parameters
    ----------
    message : str
        What was wrong, and what to do about it.
    archive : str, optional
        The path or name of the archive. Put in front of the message.
    member : str, optional
        The name of the member. Put in front of the message, after the archive.

    Attributes
    ----------
    archive, member : str or None
        As given.
    reason : str
        The message without the names in front of it.
    others : list of Exception
        What else went wrong, where a call goes on after the first error (`Archive.extract`).
    """

    def __init__(self, message: str, *, archive: str | None = None, member: str | None = None) -> None:
        self.archive = archive
        self.member = member
        self.reason = message
        self.others: list[Exception] = []
        parts = [] if archive is None else [archive]
        if member is not None:
            parts.append(f"member {member!r}")
        super().__init__(": ".join([*parts, message]))

    def __str__(self) -> str:
        # KeyError, which one of the subclasses is, would show the repr of the message.
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send exceptions through pickle; keyword arguments need help.
        state = {**self.__dict__, "errno": self.errno} if isinstance(self, OSError) else self.__dict__
        return _rebuild, (type(self), self.reason, self.archive, self.member), state


def _rebuild(cls: type[ArchiveError], message: str, archive: str | None, member: str | None) -> ArchiveError:
    return cls(message, archive=archive, member=member)


class CorruptArchiveError(ArchiveError, ValueError, BadZipFile):
    """Bytes contradict the format or a checksum."""


class UnsupportedFeatureError(ArchiveError, NotImplementedError):
    """Well-formed, but not handled: a compression method, several disks, and the like."""


class EncryptedMemberError(UnsupportedFeatureError):
    """The member needs a password."""


class MemberNotFoundError(ArchiveError, KeyError):
    """There is no member of that name."""


class LimitExceededError(ArchiveError, ValueError):
    """A bound of `Limits` would be passed; raised before memory is taken."""


class ArchiveChangedError(ArchiveError, OSError):
    """The file is not the one that was indexed: it was replaced, truncated or written to."""


class SourceError(ArchiveError, OSError):
    """Reading the bytes of an archive failed for good."""


class CudaUnavailableError(ArchiveError, RuntimeError):
    """CUDA was asked for and is not there; the message says why."""


class ArchiveWarning(UserWarning):
    """Something about an archive that does no harm, but that its maker would want to know."""
