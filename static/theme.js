// Lets the whole document follow the theme: dialogs and menus lie outside the element that Streamlit's theme is on.

export function followTheme() {
  const app = document.querySelector("[data-testid=stApp]");
  if (!app) return () => {};
  const follow = () => { document.documentElement.style.colorScheme = getComputedStyle(app).colorScheme; };
  const watcher = new MutationObserver(follow);
  watcher.observe(app, { attributes: true, attributeFilter: ["class", "style"] });
  follow();
  return () => watcher.disconnect();
}
