// Without this the page is the same; it only has to be loaded again.
const refresh = async () => {
  // Nobody looks, or somebody copies.
  if (document.hidden || !getSelection().isCollapsed) return;
  let lost = false;
  try {
    const response = await fetch("/?main");
    document.querySelector("main").innerHTML = await response.text();
  } catch {
    lost = true;
  }
  document.body.classList.toggle("lost", lost);
};
setInterval(refresh, 2000);
