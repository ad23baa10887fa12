/**
 * What the server answers, as the scripts use it. Nothing here runs. Made by `python scripts/web_types.py`.
 *
 * @typedef {object} Area
 * @property {number} left
 * @property {number} top
 * @property {number} width
 * @property {number} height
 *
 * @typedef {object} Caption
 * @property {string} text
 * @property {"clip" | "generated" | "user"} source
 * @property {number | null} similarity
 * @property {number | null} log_prob
 * @property {string | null} model
 * @property {boolean} best
 *
 * @typedef {object} DualCaption
 * @property {Caption[]} clip
 * @property {Caption[]} generated
 * @property {Caption} best
 * @property {number} took_ms
 *
 * @typedef {object} DuplicateGroup
 * @property {"exact" | "copy" | "alike"} kind
 * @property {number} similarity
 * @property {string} reason
 * @property {number} count
 * @property {number} movable
 * @property {DuplicateImage[]} images
 * @property {string[]} differences
 *
 * @typedef {object} DuplicateImage
 * @property {number} id
 * @property {string} path
 * @property {string} name
 * @property {string} folder
 * @property {number} width
 * @property {number} height
 * @property {string} format
 * @property {number} size_bytes
 * @property {string | null} taken_at
 * @property {string | null} camera
 * @property {number | null} latitude
 * @property {number | null} longitude
 * @property {Record<string, string | number | string[]>} facts
 * @property {string} content_hash
 * @property {string} modified_at
 * @property {string} thumbnail
 * @property {string | null} placeholder
 * @property {Caption[]} captions
 * @property {TextLine[] | null} text
 * @property {number[]} duplicates
 * @property {string[]} models
 * @property {boolean} exists
 * @property {boolean} keep
 * @property {boolean} link
 *
 * @typedef {object} Duplicates
 * @property {DuplicateGroup[]} groups
 * @property {number} total
 * @property {number} not_compared
 *
 * @typedef {object} Folder
 * @property {string} name
 * @property {string} path
 *
 * @typedef {object} Folders
 * @property {string[]} roots
 * @property {string[]} allow_roots
 * @property {string} set_aside
 * @property {string | null} path
 * @property {Folder[]} folders
 *
 * @typedef {object} Heatmap
 * @property {number} rows
 * @property {number} columns
 * @property {number[][]} values
 * @property {number} low
 * @property {number} high
 * @property {string} model
 * @property {Area} area
 *
 * @typedef {object} Hit
 * @property {number} id
 * @property {string} path
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {number | null} similarity
 * @property {number | null} probability
 * @property {("picture" | "name" | "folder" | "caption" | "keyword" | "text")[]} why
 * @property {string | null} caption
 * @property {number} copies
 * @property {string | null} taken_at
 * @property {string} content_hash
 * @property {string} thumbnail
 * @property {string | null} placeholder
 *
 * @typedef {object} Picture
 * @property {number} id
 * @property {string} path
 * @property {string} name
 * @property {string} folder
 * @property {number} width
 * @property {number} height
 * @property {string} format
 * @property {number} size_bytes
 * @property {string | null} taken_at
 * @property {string | null} camera
 * @property {number | null} latitude
 * @property {number | null} longitude
 * @property {Record<string, string | number | string[]>} facts
 * @property {string} content_hash
 * @property {string} modified_at
 * @property {string} thumbnail
 * @property {string | null} placeholder
 * @property {Caption[]} captions
 * @property {TextLine[] | null} text
 * @property {number[]} duplicates
 * @property {string[]} models
 * @property {boolean} exists
 *
 * @typedef {object} Job
 * @property {string} id
 * @property {"index" | "caption" | "add_model"} kind
 * @property {"queued" | "running" | "paused" | "done" | "failed" | "cancelled"} state
 * @property {string} library
 * @property {string[]} folders
 * @property {string | null} model
 * @property {JobProgress} progress
 * @property {string} created_at
 * @property {string | null} ended_at
 * @property {string | null} summary
 * @property {string | null} error
 * @property {string | null} captioner
 * @property {string | null} started_at
 * @property {"pause" | "cancel" | null} stopping
 * @property {number} interruptions
 *
 * @typedef {object} JobProgress
 * @property {number} done
 * @property {number | null} total
 * @property {number} found
 * @property {number | null} rate_per_s
 * @property {number | null} seconds_left
 * @property {SkippedFile[]} skipped
 * @property {number} skipped_count
 *
 * @typedef {object} ModelEntry
 * @property {string} name
 * @property {"encoder" | "captioner" | "matcher"} kind
 * @property {number} vectors
 * @property {boolean} available
 * @property {number | null} dim
 * @property {string} licence
 * @property {number | null} size_bytes
 * @property {Record<string, any>} figures
 *
 * @typedef {object} Moves
 * @property {number} moved
 * @property {SkippedFile[]} left
 * @property {string} folder
 * @property {string | null} log
 *
 * @typedef {object} QueryPart
 * @property {string} label
 * @property {number} weight
 * @property {"text" | "image"} kind
 *
 * @typedef {object} ReadAs
 * @property {"dates" | "places"} kind
 * @property {string} words
 * @property {string} label
 * @property {string} where
 * @property {number} left_out
 *
 * @typedef {object} Run
 * @property {string} name
 * @property {string} modified_at
 * @property {number | null} step
 * @property {number | null} steps
 * @property {boolean} ended
 * @property {Record<string, number>} metrics
 *
 * @typedef {object} RunDetail
 * @property {string} name
 * @property {string} modified_at
 * @property {number | null} step
 * @property {number | null} steps
 * @property {boolean} ended
 * @property {Record<string, number>} metrics
 * @property {Record<string, any>} config
 * @property {(Record<string, any>)[]} rows
 * @property {number} next
 *
 * @typedef {object} SearchAnswer
 * @property {Hit[]} hits
 * @property {string | null} next
 * @property {number} total
 * @property {number} took_ms
 * @property {string} model
 * @property {QueryPart[]} parts
 * @property {string | null} note
 * @property {Verdict | null} verdict
 * @property {ReadAs[]} read_as
 * @property {ReadAs[]} offered
 *
 * @typedef {object} SkippedFile
 * @property {string} path
 * @property {string} reason
 *
 * @typedef {object} Stats
 * @property {string} library
 * @property {number} images
 * @property {number} captions
 * @property {string | null} model
 * @property {Record<string, number>} models
 * @property {string[]} folders
 * @property {string[]} offline_folders
 * @property {number} unreadable
 * @property {SkippedFile[]} unreadable_files
 * @property {number} size_bytes
 * @property {string} version
 * @property {string[]} pages
 *
 * @typedef {object} TextLine
 * @property {string} text
 * @property {number} score
 * @property {number[]} corners
 *
 * @typedef {object} Verdict
 * @property {number | null} present
 * @property {boolean} matches
 * @property {number | null} likely
 * @property {number} unlikely_below
 * @property {string[]} notices
 *
 * @typedef {object} Word
 * @property {string} name
 * @property {string | null} kind
 * @property {number} examples
 * @property {number[]} images
 */

export {};
