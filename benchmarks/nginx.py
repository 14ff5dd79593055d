"""nginx as fast as it goes: a cache of POST requests with the body in the key, or a forwarder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.servers import Servers, Started

MISSING = "Not measured: nginx, which is missing: apt-get install nginx."
# Debian keeps it out of the PATH of users.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"

# One worker, for one core. It keeps connections as long as they are used: closing each after the
# 1,000 requests that are the default costs it more than a few hits.
_CONF = """
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr error;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    server_tokens off;
    # A copy of so little costs less than what else sendfile asks of the kernel.
    sendfile off;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    # A body that does not fit goes to a file, and is not in $request_body, nor in the key.
    client_body_buffer_size 256k;
    client_body_in_single_buffer on;
    client_max_body_size 1m;
    client_body_temp_path {folder}/body;
    # The head of a cached answer is read into one buffer, with its key: the whole request body.
    proxy_buffer_size 128k;
    proxy_buffers 8 128k;
    proxy_busy_buffers_size 256k;
    output_buffers 1 128k;
    open_file_cache max=20000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    proxy_temp_path {folder}/proxy;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=answers:64m max_size=4g inactive=1d
        use_temp_path=off;
    upstream provider {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {caching}
        }}
    }}
}}
"""
_CACHING = """
            proxy_cache answers;
            proxy_cache_methods POST;
            proxy_cache_key "$request_uri $request_body";
            proxy_cache_valid 200 1d;
            proxy_cache_lock on;
            proxy_set_header X-Whole yes;
            add_header X-Cache-Status $upstream_cache_status;
"""


def program() -> str | None:
    return shutil.which("nginx", path=_PATH)


def start(servers: Servers, nginx: str, name: str, upstream: Started, *, caching: bool) -> Started:
    """nginx before this upstream, with all it writes in a folder of its own."""
    folder = servers.folder / name
    folder.mkdir()

    def command(port: str) -> list[str]:
        conf = folder / "nginx.conf"
        conf.write_text(configuration(folder, port, upstream.port, caching=caching))
        return [nginx, "-p", str(folder), "-c", str(conf), "-e", "stderr", "-g", "daemon off;"]

    return servers.start(name, servers.cores.server, command, "/", cwd=folder)


def configuration(folder: Path, port: str, upstream: int, *, caching: bool) -> str:
    return _CONF.format(
        # As root its workers are another user's, who may not enter the folder.
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        port=port,
        upstream=upstream,
        caching=_CACHING if caching else "",
    )
