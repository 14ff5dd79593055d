// Runs before anything is shown: the token leaves the address, and the theme is as it was chosen.
(() => {
  "use strict";

  function takeToken() {
    const found = /^#token=([^&]+)/.exec(location.hash);
    if (found === null) return;
    try {
      sessionStorage.setItem("token", decodeURIComponent(found[1]));
    } catch {
      // not a token of ours: forgotten with the address
    }
    history.replaceState(null, "", location.pathname + location.search);
  }

  function applyTheme() {
    const chosen = sessionStorage.getItem("theme");
    const isDark = chosen === null ? dark.matches : chosen === "dark";
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", applyTheme);
  takeToken();
  applyTheme();
})();
