"""Patterns of prompts that are about a workspace: files, paths, addresses, mentions, and the verbs that act on them."""

from __future__ import annotations

import re

EXTENSIONS = (
    "tsx?|jsx?|mjs|cjs|vue|svelte|py|ipynb|rb|php|go|rs|java|kt|swift|cs|cpp|cc|c|h|hpp|sh|bash|zsh|ps1|sql|html?|css|"
    "scss|less|json|jsonl|ya?ml|toml|ini|cfg|conf|xml|csv|tsv|md|mdx|rst|txt|log|lock|env|proto|graphql|tf|gradle|png|svg"
)
# Names of products that end like files.
PRODUCTS = r"(?:node|next|nuxt|vue|react|angular|ember|express|three|d3|nest|deno|chart|moment)\.js"
# Files that every project has: a question about one may be about its kind.
WELL_KNOWN = r"(?:package(?:-lock)?\.json|tsconfig\.json|\.gitignore|\.env|README(?:\.md)?|Dockerfile|Makefile)"
FOLDERS = (
    "src|lib|libs|app|apps|tests?|docs?|components?|packages?|config|scripts|handlers?|api|utils|models?|public|dist|"
    "build|styles|pages|server|client/src|internal|cmd|pkg|logs?|tmp|data|migrations|layer\\d|scenarios"
)

FILE = re.compile(
    rf"(?<![\w./@-])(?!{PRODUCTS}\b)(?:@|#file:)?(?:[\w.~-]*/)*(?:[\w.-]*\w\.(?:{EXTENSIONS})\b(?![./]?\w)|"
    rf"\.(?:git(?:ignore|attributes)|env(?:\.\w+)?|eslintrc|prettierrc|editorconfig|npmrc|bashrc)(?:\.\w+)?\b|"
    r"(?:Dockerfile|Makefile|README|LICENSE|CHANGELOG|Jenkinsfile)\b)",
    re.IGNORECASE,
)
PATH = re.compile(rf"(?<![\w./])(?:\.{{0,2}}/|~/)?(?:(?:{FOLDERS})/[\w./*-]*|[\w.-]+/[\w.-]+/[\w./*-]+)", re.IGNORECASE)
KIND_OF_FILE = re.compile(rf"\b(?:an?|any|every|typical|good)\s+(?:\w+\s+)?{WELL_KNOWN}", re.IGNORECASE)
ADDRESS = re.compile(
    r"\bhttps?://\S+|\bwww\.\S+|(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|io|dev|rs|ai|de)/\S+", re.IGNORECASE
)
# Ways in which the user's own work is named.
OWN = re.compile(
    r"\b(?:our|my) (?:\w+ )?(?:code|code ?base|project|repo\w*|scripts?|tests?|files?|app|edits?|changes|branch|"
    r"configs?)\b"
    r"|\b(?:this|the current|the whole|the entire) (?:repo\w*|workspace|project|code ?base|folder|directory|branch|"
    r"file)\b"
    r"|\b(?:in|across|of|through|from) the (?:code(?: ?base)?|repo\w*|workspace|project|root)\b(?! journal)"
    r"|\b(?:last|latest|previous|staged|uncommitted) (?:commits?|changes|edits?|diff|work|pdca|error)\b"
    r"|\b(?:have|did|had) (?:i|we) (?:changed?|staged?|edit(?:ed)?|modified|modify|committed)\b"
    r"|\b(?:i|we) (?:have|had) (?:open|staged|changed|edited)\b|\b(?:active|open|current) (?:editor|file|tab|"
    r"document)\b"
    r"|\bgit (?:status|diff|log|branch)\b|\bfiles? (?:have|has) been (?:modified|changed)\b|\binstalled here\b|"
    r"\bin (?:the|my) editor\b"
    r"|\b(?:do|does) (?:we|our \w+) (?:have|call|use|import|define)\b|\bi'?m currently (?:working|editing)\b",
    re.IGNORECASE,
)
# Things that only a look into the workspace shows.
PLACES = re.compile(
    r"\b(?:files?|folders?|director(?:y|ies)|repo\w*|workspace|code ?base|branch(?:es)?|diff|logs?|git|terminal|"
    r"server|root|"
    r"build|usages?|definition|references|imports?|exports?|todos?|modules?|versions|journal|configuration|places|"
    r"(?:test|unit) suite|tests|migrations?|pdcas?|open tasks|documentation|docs|url|page)\b",
    re.IGNORECASE,
)
# Things that are made in a workspace.
MADE = re.compile(
    r"\b(?:files?|folders?|director(?:y|ies)|branch|rules?|guidelines?|migration|symlink|commit|release)\b",
    re.IGNORECASE,
)
MADE_FILE = re.compile(r"^(?:create|make|add|save)\b(?:\s+[\w'-]+){0,4}?\s+(?:file|folder|branch)\b", re.IGNORECASE)
# Objects of "show me" that are told, not looked up.
TOLD = re.compile(
    r"\b(?:an? (?:\w+ )?(?:example|sample|way|trick)|examples?|how|the (?:syntax|difference|rules?|steps|template|"
    r"basics|idea)|"
    r"why|when to)\b",
    re.IGNORECASE,
)
DEFINITE = re.compile(r"\b(?:the|these|those|this|that|my|our|all|every|each|any)\b|['\"`]", re.IGNORECASE)

# Imperatives that always act on the workspace.
ACT = re.compile(
    r"(?:run|re-?run|execute|install|uninstall|launch|commit (?![0-9a-f]{7})|push|tag|stage|grep|cat|ls|npm|npx|"
    r"yarn|pnpm|pip|cargo|docker|"
    r"git|pytest|check ?out|open|delete|undo|revert|download|upload|append|save|bump|search|locate|fetch|retrieve|"
    r"load|view|read|deploy|restart|rename|start (?!with|by|from|at)|stop (?!us)|build (?!me|an? |up)|apply (?!for)|"
    r"use (?:the terminal|[a-z]+_[a-z_]+)|verify that|go through the|link the)\b",
    re.IGNORECASE,
)
# Imperatives that act on the workspace where their object or their place is there.
PUT = re.compile(r"(?:put|place|store|move|copy|bring up)\b", re.IGNORECASE)
# Imperatives that look at something: at the workspace where their object is there.
LOOK = re.compile(
    r"(?:show(?: me)?|display|print|list|find|look (?:up|at|in|into|for|through|over)|(?:take|have) a (?:look|"
    r"glance)|check|see|"
    r"verify|inspect|examine|scan|browse|get(?: me)?|give me|compare|tell me|pull in|count|analy[sz]e|review|"
    r"go (?:through|to))\b",
    re.IGNORECASE,
)
# Imperatives that change something: in the workspace unless the text to change is in the prompt.
CHANGE = re.compile(
    r"(?:edit|update|modify|change|replace|refactor|fix|convert|remove|take|insert|adapt|migrate|extract|split|merge|"
    r"sort|format|clean up|rework|swap|set|increase|decrease|raise|lower)\b",
    re.IGNORECASE,
)
# Imperatives that make something: in the workspace where a file or a place is named.
MAKE = re.compile(
    r"(?:create|make|add|write|set up|generate|implement|scaffold|begin|i need|i want|produce)\b", re.IGNORECASE
)
# Requests for a text, written from what the prompt says.
TEXT = re.compile(
    r"\b(?:write|draft|compose|explain|translate|rephrase|word)\b[^.?!]*\b(?:e-?mail|letter|message|summary|paragraph|"
    r"sentence|story|haiku)\b|\b(?:pdca|tron|template|form)\b|^(?:please )?(?:fill|complete)\b|\bclass `|\bwrite `",
    re.IGNORECASE,
)
# Command lines in backticks.
COMMAND = re.compile(
    r"`(?:npm|npx|yarn|pnpm|node|git|python3?|pip|pytest|make|cargo|go|docker|openssl|lsof|ls|cat|grep|find|curl|"
    r"wget|bash|"
    r"sh|tsc|vitest|jest|df|du|ps|kill|ssh|tar|zip|systemctl|journalctl)\b[^`\n]*`"
)
