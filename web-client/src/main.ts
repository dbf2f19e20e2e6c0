/** Entry of the talking page (`/`). */

import { App } from "./app";
import { browserStore, fromAddress, load } from "./settings";

const store = browserStore();
const query = new URLSearchParams(location.search);
// A key in the address must not stay there, in the history or in a shared link.
if (query.has("token")) history.replaceState(null, "", location.pathname);
new App(fromAddress(load(store), query), store);
