// Plotly from this server, once for all charts of a tab: a promise of it.

const libraries = (window.__ddpmPlotly ??= {});

function plotly(path) {
  const url = new URL(path, document.baseURI).href;
  return (libraries[url] ??= new Promise((resolve, reject) => {
    if (window.Plotly) return resolve(window.Plotly);
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { delete libraries[url]; reject(new Error(url)); };
    document.head.appendChild(script);
  }));
}
