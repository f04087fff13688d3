"""Named limits of the API server, each with its reason."""

from __future__ import annotations

# Bytes of a request body (upstream: MaxRequestBodyBytes).
MAX_BODY_BYTES = 3 * 1024 * 1024

# JSON patch operations in one request (upstream: MaxJSONPatchOperations).
MAX_JSON_PATCH_OPERATIONS = 10_000

# Requests being answered at one moment, watches and logs apart (upstream: max-requests-inflight,
# max-mutating-requests-inflight).
MAX_READS_IN_FLIGHT = 400
MAX_WRITES_IN_FLIGHT = 200

# Seconds that a request other than a watch or a log may take (upstream: request-timeout).
REQUEST_TIMEOUT_S = 60.0

# A watch without timeoutSeconds ends after 1 to 2 times this many seconds (min-request-timeout),
# spread so that all clients of one minute do not come back in one minute.
WATCH_TIMEOUT_S = 1800.0

# Seconds between bookmarks on a quiet watch (upstream: bookmarkFrequency).
BOOKMARK_INTERVAL_S = 60.0

# Seconds that a read waits for a revision that does not exist yet, and what it then tells the
# client to wait (upstream: cacher blockTimeout, resourceVersionTooHighRetrySeconds).
FUTURE_REVISION_WAIT_S = 3.0
FUTURE_REVISION_RETRY_S = 1

# Undelivered changes that one watcher may hold. Past it the watch ends, and the client resumes from
# the last event it was given: one stalled reader must not hold the memory of a busy cluster.
WATCH_BUFFER_EVENTS = 50_000

# Encoded watch objects kept for other watchers of the same write.
ENCODED_EVENTS = 4_096

# Attempts at a generated name before AlreadyExists is passed on, and characters of its base
# (upstream: maxNameGenerationCreateAttempts, MaxGeneratedNameLength).
GENERATE_NAME_ATTEMPTS = 8
MAX_GENERATED_BASE = 58

# Objects that deletecollection takes in one step before it lets other requests run.
DELETE_COLLECTION_STEP = 100
