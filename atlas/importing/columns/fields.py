"""Which column of a table is which field: names matched whatever their spelling, checked by content."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from atlas.errors import InvalidInput
from atlas.importing.files.text import printable

#: The fields of an import, each with the names that columns have for it, the surest first. Names are
#: compared without case, spaces and punctuation; of ``snippet.title`` the last part counts as well.
FIELDS: dict[str, tuple[str, ...]] = {
    "video_id": (
        *("video_id", "contentDetails.videoId", "snippet.resourceId.videoId", "id.videoId"),
        *("youtube_id", "youtube_video_id", "yt_id", "yt_video_id", "vid", "id"),
        *("content", "video", "webpage_url", "video_url", "video_link", "youtube_url", "title_url"),
        *("url", "link", "original_url"),
    ),
    "timestamp": (
        *("timestamp", "trending_date", "collected_at", "collection_date", "collection_time"),
        *("snapshot_date", "snapshot_at", "snapshot_time", "snapshot", "sampled_at", "fetched_at"),
        *("fetch_time", "fetch_date", "scraped_at", "scrape_date", "scrape_time", "crawled_at"),
        *("crawl_date", "retrieved_at", "retrieval_date", "recorded_at", "observed_at"),
        *("captured_at", "measured_at", "checked_at", "queried_at", "query_time", "requested_at"),
        *("epoch", "as_of", "date", "datetime", "date_time", "day", "time"),
    ),
    "title": ("title", "video_title", "fulltitle", "video_name", "video_title_original"),
    "channel_id": ("channel_id", "yt_channel_id", "youtube_channel_id", "owner_channel_id"),
    "channel_title": (
        *("channel_title", "channel_name", "channel", "uploader", "author", "creator", "youtuber"),
    ),
    "category_id": ("category_id", "category", "video_category", "video_category_id"),
    "tags": ("tags", "video_tags", "keywords"),
    "default_language": (
        *("default_language", "language", "video_language", "default_audio_language"),
        "video_audio_language",
    ),
    "published_at": (
        *("video_published_at", "published_at", "publish_time", "publish_date", "published"),
        *("published_date", "published_time", "date_published", "video_publish_time"),
        *("video_publish_date", "video_publish_timestamp", "publish_timestamp", "publish_at"),
        *("upload_date", "uploaded_at", "upload_time", "date_uploaded", "release_date"),
    ),
    "duration": (
        *("duration", "duration_seconds", "duration_sec", "video_duration", "length_seconds"),
        "video_length",
    ),
    "views": (
        *("views", "view_count", "video_views", "views_count", "num_views", "number_of_views"),
        *("total_views", "video_view_count"),
    ),
    "likes": (
        *("likes", "like_count", "likes_count", "num_likes", "number_of_likes", "total_likes"),
        *("video_likes", "video_like_count"),
    ),
    "comment_count": (
        *("comment_count", "comments", "comments_count", "comment_total", "num_comments"),
        *("number_of_comments", "total_comments", "video_comment_count"),
    ),
    "ratings_disabled": ("ratings_disabled",),
    "comments_disabled": ("comments_disabled",),
    "kind": ("kind",),
}
#: The same in YouTube Studio and people's sheets of other languages; tried last.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "video_id": (
        "ID de la vidéo",
        "ID del video",
        "ID del vídeo",
        "ID do vídeo",
        "Inhalte",
        "Contenu",
        "Contenido",
        "Conteúdo",
        "Contenuti",
        "動画ID",
    ),
    "timestamp": (
        "at",
        "ts",
        "Datum",
        "Abgerufen am",
        "Date de collecte",
        "Fecha",
        "Data",
        "日付",
        "Дата",
    ),
    "title": (
        "Titel",
        "Videotitel",
        "Titre",
        "Titre de la vidéo",
        "Título",
        "Título del vídeo",
        "Título do vídeo",
        "Titolo",
        "タイトル",
        "動画のタイトル",
        "Название",
    ),
    "channel_title": ("Kanal", "Chaîne", "Canal", "Canale", "チャンネル", "Канал"),
    "published_at": (
        "Veröffentlicht",
        "Veröffentlichungszeitpunkt des Videos",
        "Veröffentlichungsdatum",
        "Date de publication",
        "Heure de publication de la vidéo",
        "Fecha de publicación",
        "Data de publicação",
        "公開日",
        "動画公開時刻",
    ),
    "duration": ("Dauer", "Durée", "Duración", "Duração", "Durata"),
    "views": (
        "Aufrufe",
        "Vues",
        "Visualizaciones",
        "Vistas",
        "Visualizações",
        "Visualizzazioni",
        "視聴回数",
        "Просмотры",
    ),
    "likes": (
        "Mag ich",
        "Mag ich Bewertungen",
        "Gefällt mir",
        "J'aime",
        "Me gusta",
        "Marcações Gostei",
        "Curtidas",
        "Mi piace",
        "高評価数",
        "高評価",
        "Нравится",
    ),
    "comment_count": (
        "Kommentare",
        "Commentaires",
        "Comentarios",
        "Comentários",
        "Commenti",
        "コメント数",
        "コメント",
        "Комментарии",
    ),
}
COUNTERS = ("views", "likes", "comment_count")
#: Fields that only say how others are to be read.
FLAGS = ("ratings_disabled", "comments_disabled", "kind")

#: Characters of the longest name that is looked at.
_LONGEST = 80
_SPLIT = re.compile(r"[./>]+")


@functools.lru_cache(4096)
def normalised(name: str) -> str:
    """A name as it is compared: letters and digits, in lower case."""
    return "".join(one for one in name.casefold() if one.isalnum())


_BY_ALIAS = {
    field: {normalised(alias): rank for rank, alias in enumerate(aliases)}
    for field, names in FIELDS.items()
    for aliases in [(*names, *_ELSEWHERE.get(field, ()))]
}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The columns that hold fields, by field, and the columns that hold none."""

    columns: Mapping[str, str]
    ignored: tuple[str, ...]

    def has(self, *fields: str) -> bool:
        """Whether one of the fields is there."""
        return any(field in self.columns for field in fields)


def recognised(header: Iterable[str], columns: Mapping[str, str] = {}) -> dict[str, list[str]]:
    """For each field the columns that may hold it, likeliest first; ``columns``: the user's own mapping."""
    names = [name for name in header if 0 < len(name) <= _LONGEST]
    found: dict[str, list[str]] = {}
    for field in FIELDS:
        if columns and field in columns:
            found[field] = [columns[field]]
            continue
        ranked = sorted(
            (rank, place, name)
            for place, name in enumerate(names)
            if (rank := _rank(field, name)) is not None
        )
        if ranked:
            found[field] = [name for _, _, name in ranked]
    return found


@functools.lru_cache(16_384)
def _rank(field: str, name: str) -> tuple[int, int] | None:
    """How surely a column holds a field: the rank of the alias, whole names before last parts."""
    aliases = _BY_ALIAS[field]
    whole = normalised(name)
    if whole in aliases:
        return aliases[whole], 0
    parts = [part for part in _SPLIT.split(name) if part]
    if len(parts) > 1 and not _is_of_another(parts[:-1]):
        last = normalised(parts[-1])
        if last in aliases and last not in ("url", "time", "content"):
            return aliases[last], len(parts)
    for prefix in ("snippet", "statistics", "contentdetails"):
        rest = whole.removeprefix(prefix)
        if rest != whole and rest in aliases and rest not in ("url", "time"):
            return aliases[rest], 1
    return None


def _is_of_another(parts: Sequence[str]) -> bool:
    """Whether a nested column speaks of another thing than the video: ``thumbnails.default.url``."""
    words = {normalised(part) for part in parts}
    return bool(
        words & {"thumbnails", "thumbnail", "localized", "player", "formats", "channel", "playlist"}
    )


def chosen(
    header: Sequence[str],
    columns: Mapping[str, str],
    holds_id: Callable[[str], bool] = lambda column: True,
) -> ColumnMapping:
    """The mapping of a table with this header. Raises `InvalidInput` for one that cannot be.

    ``holds_id`` says whether a column has ids in it: of several that may hold the id the first that does.
    """
    given = _given(header, columns)
    candidates = recognised(header, given)
    if is_of_yt_dlp(header):
        # there ``timestamp`` is when the video was published, and ``epoch`` when it was looked at
        candidates["timestamp"] = [given["timestamp"]] if "timestamp" in given else []
        if "epoch" in header and "timestamp" not in given:
            candidates["timestamp"] = ["epoch"]
        if "timestamp" in header and "published_at" not in given:
            candidates["published_at"] = ["timestamp"]
    taken: dict[str, str] = dict(given)
    used = set(given.values())
    for field, names in candidates.items():
        free = [name for name in names if name not in used]
        if field in taken or not free:
            continue
        pick = next((name for name in free if field != "video_id" or holds_id(name)), free[0])
        taken[field] = pick
        used.add(pick)
    return ColumnMapping(
        {field: taken[field] for field in FIELDS if field in taken},
        tuple(name for name in header if name not in used),
    )


def is_of_yt_dlp(header: Sequence[str]) -> bool:
    """Whether the columns are those of yt-dlp."""
    names = set(header)
    return "upload_date" in names and bool(
        names & {"webpage_url", "extractor", "extractor_key", "epoch"}
    )


def _given(header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """What a person said, with the columns as they are spelt in the file."""
    spelt: dict[str, str] = {}
    for name in reversed(header):
        spelt[normalised(name)] = name
    found = {}
    for field, column in columns.items():
        if field not in FIELDS or field in FLAGS:
            raise InvalidInput(
                f"--map {printable(field)}={printable(column)}: there is no field {printable(field)}",
                field="map",
                value=field,
                hint=f"fields: {', '.join(name for name in FIELDS if name not in FLAGS)}",
            )
        match = column if column in header else spelt.get(normalised(column))
        if match is None:
            raise InvalidInput(
                f"--map {field}={printable(column)}: there is no column {printable(column)}",
                field="map",
                value=column,
                hint=f"columns: {listed(header)}",
            )
        found[field] = match
    return found


def no_column(field: str, header: Sequence[str]) -> InvalidInput:
    """The error for a field that every table needs."""
    if not header:
        return InvalidInput(
            "the values have no names: nothing says which is the video", field=field
        )
    return InvalidInput(
        f"no column for {field}",
        field=field,
        value=list(header),
        hint=f"say which with --map {field}=COLUMN, or of which video all of it is with --video-id ID; "
        f"columns: {listed(header)}",
    )


def listed(names: Iterable[str], most: int = 40) -> str:
    """Names of columns for people, cut and without control characters."""
    shown = [printable(name)[:60] for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
